package sqlite

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/infractl/infractl/internal/clock"
	"github.com/infractl/infractl/server/store"
)

// BenchmarkWrite measures durable writes of 500 bytes. The writers of one run share transactions, so that the time of a
// write falls as writers are added.
func BenchmarkWrite(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openAt(b, b.TempDir(), clock.System{})
			data := make([]byte, 500)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
						op := store.Put{Kind: "k", Name: fmt.Sprint(n % 5000), Data: data, Expect: store.Any}
						if _, err := s.Write(context.Background(), op); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			s.Close()
			b.ReportMetric(float64(b.N)/float64(s.writer.groups), "writes/commit")
		})
	}
}

// BenchmarkGet measures reads of 500 bytes beside one busy writer.
func BenchmarkGet(b *testing.B) {
	s := openAt(b, b.TempDir(), clock.System{})
	ctx, stop := context.WithCancel(context.Background())
	put := store.Put{Kind: "k", Name: "a", Data: make([]byte, 500), Expect: store.Any}
	if _, err := s.Write(ctx, put); err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			s.Write(context.Background(), put)
		}
	})
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(context.Background(), "k", "a"); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	stop()
	wg.Wait()
}

// BenchmarkAppendAudit measures entries from 64 callers at once.
func BenchmarkAppendAudit(b *testing.B) {
	s := openAt(b, b.TempDir(), clock.System{})
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.AppendAudit(context.Background(), store.AuditEntry{Actor: "operator/a", Action: "x"}); err != nil {
				b.Error(err)
			}
		}
	})
}
