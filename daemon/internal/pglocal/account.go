package pglocal

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// account is the user that the server runs as.
type account struct {
	name     string
	uid, gid int
	// drop is true when that is not the user that this process runs as.
	drop bool
}

// serverAccount chooses who runs the server: this process's user, or, since PostgreSQL refuses to run as root, the owner
// of the data directory, else postgres, else nobody. The user must have an entry in the user database: the server looks
// itself up and ends when it cannot be found.
func serverAccount(data string) (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		self, err := lookup(user.LookupId(strconv.Itoa(uid)))
		if err != nil {
			return account{}, fmt.Errorf("PostgreSQL cannot run as user id %d, which has no entry in the user database (/etc/passwd): %w", uid, err)
		}
		return self, checkOwner(data, uid)
	}
	acct, err := unprivileged(data)
	acct.drop = true
	return acct, err
}

func unprivileged(data string) (account, error) {
	owner, err := ownerOf(data)
	if err == nil {
		if owner == 0 {
			return account{}, fmt.Errorf("the data directory %s belongs to root, and PostgreSQL refuses to run as root: "+
				"give it to an unprivileged user, for example chown -R postgres %s", data, data)
		}
		acct, err := lookup(user.LookupId(strconv.Itoa(owner)))
		if err != nil {
			return account{}, fmt.Errorf("the data directory %s belongs to user id %d, which has no entry in the user database: %w", data, owner, err)
		}
		return acct, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return account{}, err
	}
	acct, err := lookup(user.Lookup("postgres"))
	if err != nil {
		acct, err = lookup(user.Lookup("nobody"))
	}
	if err != nil {
		return account{}, fmt.Errorf("started by root, and there is neither a user postgres nor a user nobody to run PostgreSQL as: %w", err)
	}
	return acct, nil
}

func lookup(u *user.User, err error) (account, error) {
	if err != nil {
		return account{}, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("user id of %s: %w", u.Username, err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("group id of %s: %w", u.Username, err)
	}
	return account{name: u.Username, uid: uid, gid: gid}, nil
}

func checkOwner(data string, uid int) error {
	owner, err := ownerOf(data)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner != uid {
		return fmt.Errorf("the data directory %s belongs to user id %d, this process runs as user id %d: "+
			"start it as the owner or as root", data, owner, uid)
	}
	return nil
}

func ownerOf(path string) (int, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return 0, fmt.Errorf("looking at the data directory: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, fmt.Errorf("looking at the data directory %s: the system does not say who owns it", path)
	}
	return int(stat.Uid), nil
}

// own gives path to the account. It does not follow a link.
func (a account) own(path string) error {
	if !a.drop {
		return nil
	}
	if err := os.Lchown(path, a.uid, a.gid); err != nil {
		return fmt.Errorf("giving %s to user %s: %w", path, a.name, err)
	}
	return nil
}
