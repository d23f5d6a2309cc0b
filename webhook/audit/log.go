package audit

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
)

// maxKept is the size up to which a buffer is kept for the next review.
const maxKept = 64 << 10

// Log writes audit records as JSON lines. The records of reviews that end at about the same time gather in a
// batch, which whoever began it writes for all: a review waits for two writes at most, however many there are. No
// review is answered whose records are not written.
type Log struct {
	out io.WriteCloser

	mu      sync.Mutex
	writing bool   // somebody writes, and will call next
	pending *batch // that is to be written next and can be joined, nil if there is none
	closed  bool
	idle    sync.Cond // signalled when writing ends for want of a batch

	torn bool // the last write broke off within a line; only for who writes

	buffers sync.Pool // of *[]byte, the records of one review
}

// batch is the records of several reviews.
type batch struct {
	lines []byte
	turn  chan struct{} // gets one value when whoever began the batch is to write it, nil if nobody else writes
	done  chan struct{} // closed when it is written, nil while nobody has joined
	err   error         // of the write, once done
}

// NewLog returns a log that writes to out, and does not close it.
func NewLog(out io.Writer) *Log { return newLog(keepOpen{out}) }

func newLog(out io.WriteCloser) *Log {
	l := &Log{out: out, buffers: sync.Pool{New: func() any { return new([]byte) }}}
	l.idle.L = &l.mu
	return l
}

type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// Write writes the records of one review. It returns when they are written; lines are never torn or mixed.
func (l *Log) Write(records []Record) error {
	if len(records) == 0 {
		return nil
	}
	buffer, _ := l.buffers.Get().(*[]byte)
	lines := (*buffer)[:0]
	for i := range records {
		lines = appendRecord(lines, &records[i])
	}
	if cap(lines) <= maxKept {
		*buffer = lines
		defer l.buffers.Put(buffer)
	}
	if err := l.commit(lines); err != nil {
		return fmt.Errorf("writing audit log: %w", err)
	}
	return nil
}

func (l *Log) commit(lines []byte) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fs.ErrClosed
	}
	if b := l.pending; b != nil {
		if b.done == nil {
			b.done = make(chan struct{})
		}
		b.lines = append(b.lines, lines...)
		l.mu.Unlock()
		<-b.done
		return b.err
	}
	b := &batch{lines: lines}
	l.pending = b
	if l.writing {
		b.turn = make(chan struct{}, 1)
		l.mu.Unlock()
		<-b.turn
	} else {
		l.writing = true
		l.mu.Unlock()
		// Reviews that are ready to go on come first: on a busy processor each would else write alone, which
		// costs as much as all the rest of a review.
		runtime.Gosched()
	}
	return l.write(b)
}

// write writes a batch that nobody can join any more, and lets the next one be written.
func (l *Log) write(b *batch) error {
	l.mu.Lock()
	l.pending = nil
	l.mu.Unlock()
	defer l.next()
	if b.done != nil {
		defer close(b.done)
	}
	b.err = l.flush(b.lines)
	return b.err
}

// next lets whoever began the pending batch write it.
func (l *Log) next() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending != nil {
		l.pending.turn <- struct{}{}
		return
	}
	l.writing = false
	l.idle.Broadcast()
}

// flush writes whole lines. It is called by one at a time.
func (l *Log) flush(lines []byte) error {
	if l.torn {
		lines = append([]byte{'\n'}, lines...)
	}
	n, err := l.out.Write(lines)
	if n > 0 {
		l.torn = lines[n-1] != '\n'
	}
	return err
}

// Close closes the log once what was begun is written. A Write after it fails.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	for l.writing {
		l.idle.Wait()
	}
	l.mu.Unlock()
	return l.out.Close()
}
