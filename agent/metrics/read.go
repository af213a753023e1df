package metrics

import (
	"sync"

	"golang.org/x/sys/unix"
)

// maxFile bounds what is read of one file of /proc or of a cgroup.
const maxFile = 256 << 10

// text reads a file whole; what cannot be read is empty. A scrape reads hundreds of small files that the kernel makes at that
// moment: three calls each, and no poller.
func (r *reader) text(file string) string {
	fd, err := unix.Open(r.host.Path(file), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	buf, _ := r.buffers.Get().(*[4096]byte)
	if buf == nil {
		buf = new([4096]byte)
	}
	defer r.buffers.Put(buf)
	var whole []byte
	for {
		n, err := unix.Read(fd, buf[:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 || len(whole) > maxFile {
			return string(whole)
		}
		whole = append(whole, buf[:n]...)
	}
}

// buffers are reused between files.
type buffers = sync.Pool
