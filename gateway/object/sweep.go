package object

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// retired are chunks that nobody needs once the grace is over.
type retired struct {
	Name
	run   id
	grace time.Duration
}

// maxRetired is how many of them wait; what is too much for the queue is left to the sweep.
const maxRetired = 4096

func (s *Service) retire(r retired) {
	select {
	case s.retired <- r:
	default:
		s.cfg.Log.Debug().Str("object", r.path()).Msg("chunks are left to the sweep")
	}
}

// Run removes chunks that were replaced, and sweeps now and then, until ctx ends. One Service of the cluster sweeps
// at a time: whoever writes the sweep's key first.
func (s *Service) Run(ctx context.Context) {
	type due struct {
		retired
		at time.Time
	}
	var waiting []due // at most maxRetired
	tick := time.NewTicker(min(time.Second, s.cfg.Grace))
	defer tick.Stop()
	sweep := time.NewTimer(s.cfg.SweepInterval/2 + rand.N(s.cfg.SweepInterval))
	defer sweep.Stop()
	for {
		queue := s.retired
		if len(waiting) >= maxRetired {
			queue = nil
		}
		select {
		case <-ctx.Done():
			return
		case r := <-queue:
			waiting = append(waiting, due{r, time.Now().Add(r.grace)})
		case now := <-tick.C:
			left := waiting[:0]
			for _, w := range waiting {
				if now.Before(w.at) {
					left = append(left, w)
					continue
				}
				if err := s.removeChunks(ctx, w.Name, w.run); err != nil {
					s.cfg.Log.Debug().Err(err).Str("object", w.path()).Msg("chunks are left to the sweep")
				}
			}
			waiting = left
		case <-sweep.C:
			sweep.Reset(s.cfg.SweepInterval/2 + rand.N(s.cfg.SweepInterval))
			_, err := s.store.Put(ctx, []byte(sweepKey), nil, client.IfAbsent(), client.TTL(s.cfg.SweepInterval/2))
			if err == nil {
				err = s.Sweep(ctx, time.Now())
			}
			if err != nil && !errors.Is(err, dramnode.ErrGenerationMismatch) && ctx.Err() == nil {
				s.cfg.Log.Warn().Err(err).Msg("sweep of orphan chunks not finished")
			}
		}
	}
}

func (s *Service) removeChunks(ctx context.Context, n Name, run id) error {
	_, err := s.store.DeleteRange(ctx, client.Query{Prefix: []byte(n.chunks(run))})
	return err
}

// sweepSlack is how much later than their upload's end chunks are swept: clocks differ, and a Complete takes time.
const sweepSlack = time.Hour

// Sweep removes chunks that no manifest names and that are too old for an upload to be going on, and records
// whose object is gone.
func (s *Service) Sweep(ctx context.Context, now time.Time) error {
	return errors.Join(s.sweepChunks(ctx, now), s.sweepRecords(ctx))
}

func (s *Service) sweepChunks(ctx context.Context, now time.Time) error {
	var name Name
	var named map[id]bool // by the manifest of name
	var staged int64
	var last id
	var live bool // last is named, or an upload's
	for e, err := range s.store.List(ctx, client.Query{Prefix: []byte(chunkKeys)}) {
		if err != nil {
			return err
		}
		n, run, _, ok := cut(string(e.Key), chunkKeys)
		if !ok {
			continue
		}
		if n != name || named == nil {
			name, last = n, ""
			if named, err = s.runs(ctx, n); err != nil {
				return err
			}
		}
		if run != last {
			last = run
			live = named[run] || now.Sub(run.made()) < s.cfg.UploadTimeout+sweepSlack
			if !live {
				if err := s.removeChunks(ctx, n, run); err != nil {
					return err
				}
			}
		}
		if live && !named[run] {
			staged += e.Size
		}
	}
	s.staged.set(staged)
	return nil
}

// runs returns the runs of chunks that the manifest of n names.
func (s *Service) runs(ctx context.Context, n Name) (map[id]bool, error) {
	named := map[id]bool{}
	v, err := s.store.Get(ctx, n.valueKey(), client.Range(0, maxManifestBytes), client.Clip())
	if errors.Is(err, dramnode.ErrNotFound) || err == nil && !IsManifest(v.Bytes) {
		return named, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(v.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", n.path(), err)
	}
	for _, r := range m.Runs {
		named[r.ID] = true
	}
	return named, nil
}

const sweepPage = 1000

func (s *Service) sweepRecords(ctx context.Context) error {
	q := client.Query{Prefix: []byte(recordKeys), Limit: sweepPage}
	for {
		var page []client.Entry
		var values [][]byte
		for e, err := range s.store.List(ctx, q) {
			if err != nil {
				return err
			}
			page = append(page, e)
			values = append(values, []byte(strings.TrimPrefix(string(e.Key), recordKeys)))
		}
		for i, r := range s.store.MultiGet(ctx, values, client.Range(0, 0)) {
			if !errors.Is(r.Err, dramnode.ErrNotFound) {
				continue
			}
			_, err := s.store.Remove(ctx, page[i].Key, client.IfGeneration(page[i].Generation))
			if err != nil && !errors.Is(err, dramnode.ErrGenerationMismatch) {
				return err
			}
		}
		if len(page) < sweepPage {
			return nil
		}
		q.After = page[len(page)-1].Key
	}
}
