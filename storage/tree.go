package storage

// A tree keeps records sorted by less, as a B+tree of refs in the arena: 4 bytes per record in the leaves, which are at
// least half full on average. A node that is full splits in two halves, or at the very end of the tree starts a new node, so
// that ascending inserts leave full nodes. A node that is less than a third full joins its neighbour where both fit.
//
// Nodes know no keys: to compare, less reads the records, so a record stays readable until it is replaced or deleted.
type tree struct {
	mem  *memory
	lane int
	less func(a, b handle) bool

	root   handle
	height int // levels above the leaves
	count  int

	keep   bool // freed nodes go to spares
	spares []handle
}

const (
	nodeBytes    = 512
	nodeCount    = 0 // u32
	nodeItems    = 8
	leafItem     = 4 // ref of a record
	branchItem   = 8 // ref of a child, then of the least record below it
	leafMax      = (nodeBytes - nodeItems) / leafItem
	branchMax    = (nodeBytes - nodeItems) / branchItem
	treeLevelMax = 16
)

// A path leads from a leaf (level 0) up to the root; at is the item that was taken at each level.
type path [treeLevelMax]struct {
	node handle
	at   int
}

func widthOf(level int) (itemBytes, itemsMax int) {
	if level == 0 {
		return leafItem, leafMax
	}
	return branchItem, branchMax
}

func (t *tree) items(node handle) int { return int(t.mem.u32(node, nodeCount)) }

func (t *tree) setItems(node handle, count int) { t.mem.setU32(node, nodeCount, uint32(count)) }

// least is the least record below an item; of a leaf's item the record itself.
func (t *tree) least(node handle, level, at int) handle {
	if level == 0 {
		return t.mem.link(node, nodeItems+at*leafItem)
	}
	return t.mem.link(node, nodeItems+at*branchItem+4)
}

func (t *tree) child(node handle, at int) handle { return t.mem.link(node, nodeItems+at*branchItem) }

func (t *tree) set(node handle, level, at int, child, least handle) {
	if level == 0 {
		t.mem.setLink(node, nodeItems+at*leafItem, least)
		return
	}
	t.mem.setLink(node, nodeItems+at*branchItem, child)
	t.mem.setLink(node, nodeItems+at*branchItem+4, least)
}

// seek finds the first record that is not less than rec; found says that it is equal.
func (t *tree) seek(p *path, rec handle) (found bool) {
	node := t.root
	for level := t.height; level >= 0; level-- {
		from, to := 0, t.items(node)
		for from < to { // the first item that is greater, or in a leaf not less
			mid := (from + to) / 2
			var right bool
			if level == 0 {
				right = t.less(t.least(node, 0, mid), rec)
			} else {
				right = !t.less(rec, t.least(node, level, mid))
			}
			if right {
				from = mid + 1
			} else {
				to = mid
			}
		}
		p[level].node, p[level].at = node, from
		if level > 0 {
			p[level].at = max(from-1, 0)
			node = t.child(node, p[level].at)
		}
	}
	return p[0].at < t.items(p[0].node) && !t.less(rec, t.least(p[0].node, 0, p[0].at))
}

// put adds rec, or puts it in the place of its equal, which needs no memory. After an error nothing has changed.
func (t *tree) put(rec handle) error {
	if t.root == none {
		root, err := t.newNode()
		if err != nil {
			return err
		}
		t.root = root
		t.setItems(root, 0)
	}
	var p path
	if t.seek(&p, rec) {
		t.set(p[0].node, 0, p[0].at, none, rec)
		t.setLeast(&p, rec)
		return nil
	}
	t.lean(&p)
	if err := t.prepare(&p); err != nil {
		return err
	}
	t.setLeast(&p, rec)
	t.insert(&p, 0, none, rec)
	t.count++
	return nil
}

// lean moves p from the end of a full leaf to the beginning of the next one if there is room. So what was the first record of a leaf
// gets back to where it was: see move.
func (t *tree) lean(p *path) {
	if p[0].at < leafMax {
		return
	}
	if next := *p; t.next(&next) && t.items(next[0].node) < leafMax {
		*p = next
	}
}

// prepare allocates the nodes that an insert at p needs.
func (t *tree) prepare(p *path) error {
	need := 0
	for level := 0; level <= t.height; level++ {
		if _, full := widthOf(level); t.items(p[level].node) < full {
			break
		}
		need++
		if level == t.height {
			need++ // a new root
		}
	}
	for len(t.spares) < need {
		node, err := t.mem.alloc(t.lane, nodeBytes)
		if err != nil {
			t.dropSpares()
			return err
		}
		t.spares = append(t.spares, node)
	}
	return nil
}

// dropSpares frees the spares unless they are being kept.
func (t *tree) dropSpares() {
	if t.keep {
		return
	}
	for _, node := range t.spares {
		t.mem.free(node, nodeBytes)
	}
	t.spares = t.spares[:0]
}

func (t *tree) newNode() (handle, error) {
	if n := len(t.spares); n > 0 {
		return t.spare(), nil
	}
	return t.mem.alloc(t.lane, nodeBytes)
}

func (t *tree) spare() handle {
	n := len(t.spares) - 1
	node := t.spares[n]
	t.spares = t.spares[:n]
	return node
}

func (t *tree) freeNode(node handle) {
	if t.keep {
		t.spares = append(t.spares, node)
		return
	}
	t.mem.free(node, nodeBytes)
}

// setLeast makes rec the least below every branch that p enters at its first item, when p is at the first item of its leaf.
func (t *tree) setLeast(p *path, rec handle) {
	if p[0].at != 0 {
		return
	}
	for level := 1; level <= t.height; level++ {
		at := p[level].at
		t.set(p[level].node, level, at, t.child(p[level].node, at), rec)
		if at != 0 {
			return
		}
	}
}

// insert adds an item at p's place of a level, and splits what is full.
func (t *tree) insert(p *path, level int, child, least handle) {
	node, at := p[level].node, p[level].at
	width, full := widthOf(level)
	if t.items(node) < full {
		t.open(node, level, at)
		t.set(node, level, at, child, least)
		return
	}
	keep := full / 2
	if t.atEnd(p, level) {
		keep = full
	}
	right := t.spare()
	t.setItems(right, full-keep)
	t.setItems(node, keep)
	copy(t.mem.bytes(right+nodeItems, (full-keep)*width), t.mem.bytes(node+nodeItems+handle(keep*width), (full-keep)*width))
	to := node
	if at > keep || keep == full {
		to, at = right, at-keep
	}
	t.open(to, level, at)
	t.set(to, level, at, child, least)
	if level == t.height {
		root := t.spare()
		t.setItems(root, 1)
		t.set(root, level+1, 0, node, t.least(node, level, 0))
		t.root = root
		t.height++
		p[level+1].node, p[level+1].at = root, 0
	}
	p[level+1].at++
	t.insert(p, level+1, right, t.least(right, level, 0))
}

// atEnd reports whether p is behind the last item of a level.
func (t *tree) atEnd(p *path, level int) bool {
	if p[level].at < t.items(p[level].node) {
		return false
	}
	for level++; level <= t.height; level++ {
		if p[level].at < t.items(p[level].node)-1 {
			return false
		}
	}
	return true
}

// open makes room for an item, close takes one out.
func (t *tree) open(node handle, level, at int) {
	width, _ := widthOf(level)
	count := t.items(node)
	items := t.mem.bytes(node+nodeItems, (count+1)*width)
	copy(items[(at+1)*width:], items[at*width:count*width])
	t.setItems(node, count+1)
}

func (t *tree) close(node handle, level, at int) {
	width, _ := widthOf(level)
	count := t.items(node)
	items := t.mem.bytes(node+nodeItems, count*width)
	copy(items[at*width:], items[(at+1)*width:])
	t.setItems(node, count-1)
}

// delete removes the equal of rec, if there is one.
func (t *tree) delete(rec handle) {
	if t.root == none {
		return
	}
	var p path
	if !t.seek(&p, rec) {
		return
	}
	t.count--
	t.close(p[0].node, 0, p[0].at)
	if t.count == 0 {
		t.freeNode(t.root)
		t.root, t.height = none, 0
		return
	}
	if p[0].at == 0 && t.items(p[0].node) > 0 {
		t.setLeast(&p, t.least(p[0].node, 0, 0))
	}
	t.settle(&p, 0)
}

// settle frees a node that fell empty, or joins one that is nearly so with a neighbour.
func (t *tree) settle(p *path, level int) {
	if level == t.height {
		if level > 0 && t.items(t.root) == 1 {
			root := t.root
			t.root = t.child(root, 0)
			t.height--
			t.freeNode(root)
		}
		return
	}
	node, at, up := p[level].node, p[level+1].at, p[level+1].node
	_, full := widthOf(level)
	count := t.items(node)
	switch {
	case count == 0:
		t.drop(p, level, at)
	case count >= full/3:
		return
	case at+1 < t.items(up) && count+t.items(t.child(up, at+1)) <= full*7/8:
		t.append(node, t.child(up, at+1), level)
		t.drop(p, level, at+1)
	case at > 0 && count+t.items(t.child(up, at-1)) <= full*7/8:
		t.append(t.child(up, at-1), node, level)
		t.drop(p, level, at)
	}
}

// append adds the items of from, the right neighbour, to node.
func (t *tree) append(node, from handle, level int) {
	width, _ := widthOf(level)
	a, b := t.items(node), t.items(from)
	copy(t.mem.bytes(node+nodeItems+handle(a*width), b*width), t.mem.bytes(from+nodeItems, b*width))
	t.setItems(node, a+b)
}

// drop frees a child of the node above level.
func (t *tree) drop(p *path, level, at int) {
	up := p[level+1].node
	t.freeNode(t.child(up, at))
	t.close(up, level+1, at)
	if at == 0 && t.items(up) > 0 {
		t.setLeastAbove(p, level+1, t.least(up, level+1, 0))
	}
	t.settle(p, level+1)
}

// setLeastAbove is setLeast for the levels above one whose first item is new.
func (t *tree) setLeastAbove(p *path, level int, rec handle) {
	for level++; level <= t.height; level++ {
		at := p[level].at
		t.set(p[level].node, level, at, t.child(p[level].node, at), rec)
		if at != 0 {
			return
		}
	}
}

// move takes rec out, has change alter what less reads of it, and puts it back. When there is no memory for its new place,
// undo brings it to the old one, which needs none beside what taking it out freed.
func (t *tree) move(rec handle, change, undo func()) error {
	t.keep = true
	t.delete(rec)
	change()
	err := t.put(rec)
	if err != nil {
		undo()
		if again := t.put(rec); again != nil {
			panic("storage: a record does not fit where it was: " + again.Error())
		}
	}
	t.keep = false
	t.dropSpares()
	return err
}

// ascend visits the records from the first that is not less than from, which need not be in the tree.
func (t *tree) ascend(from handle, visit func(rec handle) bool) {
	if t.root == none {
		return
	}
	var p path
	t.seek(&p, from)
	t.walk(&p, visit)
}

// all visits all records.
func (t *tree) all(visit func(rec handle) bool) {
	if t.root == none {
		return
	}
	var p path
	node := t.root
	for level := t.height; level >= 0; level-- {
		p[level].node, p[level].at = node, 0
		if level > 0 {
			node = t.child(node, 0)
		}
	}
	t.walk(&p, visit)
}

// walk visits the records from p on.
func (t *tree) walk(p *path, visit func(rec handle) bool) {
	for {
		for ; p[0].at < t.items(p[0].node); p[0].at++ {
			if !visit(t.least(p[0].node, 0, p[0].at)) {
				return
			}
		}
		if !t.next(p) {
			return
		}
	}
}

// next moves p to the beginning of the next leaf.
func (t *tree) next(p *path) bool {
	level := 1
	for level <= t.height && p[level].at+1 == t.items(p[level].node) {
		level++
	}
	if level > t.height {
		return false
	}
	p[level].at++
	for ; level > 0; level-- {
		p[level-1].node, p[level-1].at = t.child(p[level].node, p[level].at), 0
	}
	return true
}
