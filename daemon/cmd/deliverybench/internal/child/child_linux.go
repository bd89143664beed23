package child

import "syscall"

// dieWithParent asks the kernel to kill the program when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
