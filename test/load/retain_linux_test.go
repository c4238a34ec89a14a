package load

import (
	"context"
	"testing"
	"time"

	"github.com/staunch-project/staunch/internal/app"
	"github.com/staunch-project/staunch/internal/retain"
	"github.com/staunch-project/staunch/internal/store"
)

// ahead is a clock that is some time ahead of the machine's.
type ahead time.Duration

func (a ahead) Now() time.Time { return time.Now().Add(time.Duration(a)) }

// BenchmarkSweep posts batches as BenchmarkBatch does, alone and beside a sweeper
// that deletes what they leave a few seconds later, as a database does that has come
// to its ages. "of-alone" is the rate as a part of that without a sweeper.
func BenchmarkSweep(b *testing.B) {
	*ruleN = max(*ruleN, 1000)
	forms, _ := templates(b, *ruleN)
	const kept = 4 * time.Second
	var alone float64
	b.Run("alone", func(b *testing.B) { alone = batches(b, forms, nil) })
	b.Run("beside a sweeper", func(b *testing.B) {
		var s *retain.Sweeper
		var before int64
		var began time.Time
		deleted := func() (n int64) {
			for _, kind := range store.AllKept() {
				n += s.Deleted(kind)
			}
			return n
		}
		rate := batches(b, forms, func(a *app.App, post func()) func() {
			// No age is shorter than the hour that clocks may be off.
			var err error
			s, err = retain.New(retain.Options{
				Store: a.Store(), Clock: ahead(time.Hour - kept), Node: "sweeper", Policy: func() retain.Policy { return retain.Policy{} },
			})
			must(b, err)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for ctx.Err() == nil {
					if _, err := s.Round(ctx); err != nil && ctx.Err() == nil {
						b.Error(err)
						return
					}
				}
			}()
			for end := time.Now().Add(2 * kept); time.Now().Before(end); {
				post()
			}
			before, began = deleted(), time.Now()
			return func() {
				b.ReportMetric(float64(deleted()-before)/time.Since(began).Seconds(), "deleted/s")
				cancel()
				<-done
			}
		})
		if alone > 0 {
			b.ReportMetric(rate/alone, "of-alone")
		}
	})
}
