package storage

import (
	"math/bits"
	"sync"
)

const (
	pageEntryBytes = 32 // Go heap that a page's descriptor takes; it counts against the arena
	runSearchMax   = 32 // free runs of a fitting bin that are tried before a longer run is cut
	binsMax        = 33
	chunkPages     = 512
)

type pageState uint8

const (
	pageFree pageState = iota
	pageSlab
	pageRun
)

// A page says what a page is part of. Of a span (pages held, or free, together) the first page
// carries the counts. state, class, lane and first are set on every page of a slab, and on the first and
// the last page of any other span. They do not change while a block lives there, so that who holds
// the block may read them without a lock.
type page struct {
	first      uint32 // first page of the span
	pages      uint32 // length of the span
	next, prev uint32 // page+1, in the list of a bin or of a class's slabs with free slots; 0 ends it
	used       uint32 // slots in use
	fresh      uint32 // slots from here on were never used
	freeSlot   uint32 // slot+1 of the first freed one; 0: none
	class      uint8
	lane       uint8
	state      pageState
}

// pool is the pages that slabs and long blocks are made of. What falls free is joined with its free neighbours.
type pool struct {
	mu        sync.Mutex // guards everything below, save what a lane guards of its slabs' pages
	count     int
	chunks    [][]page        // of descriptors, made when they are needed first: so an arena that is not used costs none
	bins      [binsMax]uint32 // free runs by bits.Len(pages): page+1 of the first
	freePages int

	runs     int // long blocks
	runPages int
	runBytes int64 // asked for by them
}

func (o *pool) init(count int) {
	o.count = count
	o.chunks = make([][]page, (count+chunkPages-1)/chunkPages)
	o.addLocked(0, count)
}

// page returns the descriptor of a page. Who holds a block of it needs no lock.
func (o *pool) page(i int) *page {
	c := &o.chunks[i/chunkPages]
	if *c == nil {
		*c = make([]page, chunkPages)
	}
	return &(*c)[i%chunkPages]
}

func (o *pool) free() (free, count int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.freePages, o.count
}

func (o *pool) allocRun(count, bytes int) (first int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if first, ok = o.takeLocked(count, pageRun); !ok {
		return 0, false
	}
	span := page{first: uint32(first), pages: uint32(count), used: 1, state: pageRun}
	*o.page(first), *o.page(first + count - 1) = span, span
	o.runs++
	o.runPages += count
	o.runBytes += int64(bytes)
	return first, true
}

func (o *pool) freeRun(first, bytes int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	count := int(o.page(first).pages)
	o.runs--
	o.runPages -= count
	o.runBytes -= int64(bytes)
	o.putLocked(first, count)
}

func (o *pool) takeSlab(count int, class, lane uint8) (first int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if first, ok = o.takeLocked(count, pageSlab); !ok {
		return 0, false
	}
	for i := first; i < first+count; i++ {
		*o.page(i) = page{first: uint32(first), class: class, lane: lane, state: pageSlab}
	}
	o.page(first).pages = uint32(count)
	return first, true
}

func (o *pool) put(first, count int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.putLocked(first, count)
}

// takeLocked cuts count pages from a free run: slabs from the end and long blocks from the beginning, so that slabs do
// not come to lie between long blocks.
func (o *pool) takeLocked(count int, use pageState) (first int, ok bool) {
	i := o.findLocked(count)
	if i < 0 {
		return 0, false
	}
	length := o.dropLocked(i)
	if length > count && use == pageSlab {
		o.addLocked(i, length-count)
		return i + length - count, true
	}
	if length > count {
		o.addLocked(i+count, length-count)
	}
	return i, true
}

func (o *pool) findLocked(count int) int {
	own := bits.Len(uint(count))
	if i := o.searchLocked(own, count, runSearchMax); i >= 0 {
		return i
	}
	for b := own + 1; b < binsMax; b++ {
		if o.bins[b] != 0 {
			return int(o.bins[b] - 1)
		}
	}
	return o.searchLocked(own, count, o.count) // nearly full: look at every run that may fit
}

// searchLocked returns the shortest fitting run among the first tries of a bin, or -1.
func (o *pool) searchLocked(bin, count, tries int) int {
	best := -1
	for n := o.bins[bin]; n != 0 && tries > 0; n, tries = o.page(int(n-1)).next, tries-1 {
		if l := int(o.page(int(n - 1)).pages); l >= count && (best < 0 || l < int(o.page(best).pages)) {
			best = int(n - 1)
		}
	}
	return best
}

// putLocked frees count pages and joins them with their free neighbours.
func (o *pool) putLocked(first, count int) {
	if first > 0 && o.page(first-1).state == pageFree {
		before := int(o.page(first - 1).first)
		count += o.dropLocked(before)
		first = before
	}
	if next := first + count; next < o.count && o.page(next).state == pageFree {
		count += o.dropLocked(next)
	}
	o.addLocked(first, count)
}

func (o *pool) dropLocked(first int) int {
	length := int(o.page(first).pages)
	o.unlink(&o.bins[bits.Len(uint(length))], first)
	o.freePages -= length
	return length
}

func (o *pool) addLocked(first, count int) {
	span := page{first: uint32(first), pages: uint32(count)}
	*o.page(first), *o.page(first + count - 1) = span, span
	o.linkTo(&o.bins[bits.Len(uint(count))], first)
	o.freePages += count
}

// linkTo and unlink work on the pool's bins, and on a lane's lists of slabs, under the lock of whose list it is.
func (o *pool) linkTo(list *uint32, i int) {
	p := o.page(i)
	p.next, p.prev = *list, 0
	if p.next != 0 {
		o.page(int(p.next - 1)).prev = uint32(i) + 1
	}
	*list = uint32(i) + 1
}

func (o *pool) unlink(list *uint32, i int) {
	p := o.page(i)
	if p.prev == 0 {
		*list = p.next
	} else {
		o.page(int(p.prev - 1)).next = p.next
	}
	if p.next != 0 {
		o.page(int(p.next - 1)).prev = p.prev
	}
	p.next, p.prev = 0, 0
}

func (o *pool) longestLocked() (pages int) {
	for b := binsMax - 1; b >= 0 && pages == 0; b-- {
		for n := o.bins[b]; n != 0; n = o.page(int(n - 1)).next {
			pages = max(pages, int(o.page(int(n-1)).pages))
		}
	}
	return pages
}
