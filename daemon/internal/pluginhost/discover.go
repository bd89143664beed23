package pluginhost

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// FilePrefix is how the name of each plugin file begins; the transport's name follows.
const FilePrefix = "deliveryd-transport-"

// maxPlugins bounds the files of a directory: each is a process of 15 MB or more.
const maxPlugins = 256

// transportName as the contract has it: the column that holds it takes 50 characters.
var transportName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,49}$`)

// pluginFile is a file that may be a plugin.
type pluginFile struct {
	name string // of the transport
	path string
}

// discover lists the plugin files of a directory, and the files that look like
// one but cannot be used. The error says what is wrong with the directory.
func discover(directory string) (found []pluginFile, rejected []FileFailure, err error) {
	directory, err = filepath.Abs(directory)
	if err != nil {
		return nil, nil, fmt.Errorf("finding plugin directory: %w", err)
	}
	if err := checkDirectory(directory); err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, nil, fmt.Errorf("reading plugin directory: %w", err)
	}
	for _, entry := range entries {
		name, ok := strings.CutPrefix(entry.Name(), FilePrefix)
		if !ok {
			continue
		}
		path := filepath.Join(directory, entry.Name())
		switch {
		case !transportName.MatchString(name):
			rejected = append(rejected, FileFailure{path, fmt.Sprintf("%q cannot be the name of a transport: use lower case letters, digits and '-', beginning with a letter, at most 50", name)})
		case len(found) == maxPlugins:
			rejected = append(rejected, FileFailure{path, fmt.Sprintf("there are more than %d plugins", maxPlugins)})
		default:
			found = append(found, pluginFile{name: name, path: path})
		}
	}
	return found, rejected, nil
}

func checkDirectory(directory string) error {
	info, err := os.Stat(directory)
	if os.IsNotExist(err) {
		return fmt.Errorf("plugin directory %s does not exist: create it, or set plugins { directory } to where the deliveryd-transport-* files are", directory)
	}
	if err != nil {
		return fmt.Errorf("reading plugin directory: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("plugin directory %s is not a directory", directory)
	}
	if err := checkOwnership(directory, info); err != nil {
		return fmt.Errorf("plugin directory is not safe: %w", err)
	}
	return nil
}

// openPluginFile opens a file and checks what was opened, not what has the name
// now, so that nothing can be put in its place between check and use.
func openPluginFile(path string) (*os.File, error) {
	// O_NONBLOCK: opening a FIFO that someone left here must not hang.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening plugin: %w", err)
	}
	if err := checkPluginFile(path, file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func checkPluginFile(path string, file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("reading plugin: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return permanent("%s is not a regular file but %s", path, kindOf(info.Mode()))
	case info.Mode()&0o111 == 0:
		return permanent("%s is not executable: chmod +x %s", path, path)
	case info.Size() > maxBinaryBytes:
		return permanent("%s has %d bytes; a plugin may have %d", path, info.Size(), maxBinaryBytes)
	}
	if err := checkOwnership(path, info); err != nil {
		return permanentError{err}
	}
	// The name may be a link: then the directory that it leads to counts as well.
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("resolving plugin: %w", err)
	}
	if parent := filepath.Dir(target); parent != filepath.Dir(path) {
		if err := checkDirectory(parent); err != nil {
			return permanentError{fmt.Errorf("%s leads to %s: %w", path, target, err)}
		}
	}
	return nil
}

func kindOf(mode os.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode&os.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&os.ModeDevice != 0:
		return "a device"
	}
	return "of type " + mode.Type().String()
}

// checkOwnership refuses what another user could change: whoever writes a
// plugin runs code with the daemon's rights and sees the secrets.
func checkOwnership(path string, info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("reading the owner of %s: not supported on this system", path)
	}
	if uid := os.Geteuid(); stat.Uid != 0 && int(stat.Uid) != uid {
		return fmt.Errorf("%s belongs to user id %d, neither root nor the daemon's %d: chown root %s", path, stat.Uid, uid, path)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("%s can be written by group or others (mode %04o): chmod go-w %s", path, mode, path)
	}
	return nil
}
