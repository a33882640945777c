package follow

import (
	"context"

	"github.com/assay-dev/assay/store"
)

// readerBuffer is how many changes wait for a slow reader before it is left behind.
const readerBuffer = 1024

type reader struct{ changes chan store.Change }

// Subscribe gives the changes from now on, once this replica's engine has them. The
// channel is closed when ctx ends, or when its reader is too slow and must read the
// store from the change that it saw last.
func (f *Follower) Subscribe(ctx context.Context) <-chan store.Change {
	r := &reader{make(chan store.Change, readerBuffer)}
	f.mu.Lock()
	f.readers[r] = struct{}{}
	f.mu.Unlock()
	context.AfterFunc(ctx, func() { f.drop(r) })
	return r.changes
}

func (f *Follower) drop(r *reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.readers[r]; ok {
		delete(f.readers, r)
		close(r.changes)
	}
}

// tell gives changes to who subscribed.
func (f *Follower) tell(changes []store.Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for r := range f.readers {
		for _, c := range changes {
			select {
			case r.changes <- c:
				continue
			default:
			}
			delete(f.readers, r)
			close(r.changes)
			break
		}
	}
}
