package audit

import (
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"istag.dev/config"
)

// Open returns a log that appends to a file, which is made if need be, readable for nobody else, and put
// aside when it has its size. What is no regular file, a pipe for instance, is not, nor is standard
// output. Close closes the file.
func Open(c config.AuditLog) (*Log, error) {
	if c.Path == "-" {
		return NewLog(os.Stdout), nil
	}
	file, err := os.OpenFile(c.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening audit log: %w", err), file.Close())
	}
	if !info.Mode().IsRegular() {
		return newLog(file), nil
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	return newLog(&rotated{
		file: &lumberjack.Logger{
			Filename: c.Path,
			// rotated says when. By itself it would put two files aside within a millisecond, by one name.
			MaxSize:    math.MaxInt32,
			MaxBackups: c.MaxFiles,
			MaxAge:     c.MaxAgeDays,
		},
		most: int64(c.MaxSizeMB) << 20,
		size: info.Size(),
	}), nil
}

// rotated is a file that is put aside once it has its size.
type rotated struct {
	file       *lumberjack.Logger
	most, size int64
	turned     int64 // when the last one was put aside, in milliseconds: the name says as much of it
}

func (r *rotated) Write(p []byte) (int, error) {
	var turning error
	if now := time.Now().UnixMilli(); r.size >= r.most && now != r.turned {
		if turning = r.file.Rotate(); turning == nil {
			r.size, r.turned = 0, now
		}
	}
	// Whatever became of that, the lines matter more.
	n, err := r.file.Write(p)
	r.size += int64(n)
	return n, errors.Join(turning, err)
}

func (r *rotated) Close() error { return r.file.Close() }
