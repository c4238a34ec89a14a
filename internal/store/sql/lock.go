package sqlstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/staunch-project/staunch"
)

// lockFile takes the lock that keeps a second process out of a database. The
// kernel drops it when the process ends, however it ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock file: %w", err)
	}
	err = tryLock(f)
	if errors.Is(err, unix.EWOULDBLOCK) {
		who := "another process"
		if b, rerr := io.ReadAll(io.LimitReader(f, 20)); rerr == nil {
			if pid, perr := strconv.Atoi(strings.TrimSpace(string(b))); perr == nil {
				who = fmt.Sprintf("process %d", pid)
			}
		}
		_ = f.Close()
		return nil, fmt.Errorf("%w: %s is in use by %s", staunch.ErrConflict, strings.TrimSuffix(path, lockSuffix), who)
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// tryLock takes the lock, or says that another has it. A process that this one
// just starts has all of its files until it runs its own program, and with them a
// lock that was let go of meanwhile, so it is tried for a moment.
func tryLock(f *os.File) error {
	for try := 0; ; try++ {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || try == 10 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
