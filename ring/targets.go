package ring

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/buraksezer/consistent"
	"github.com/cespare/xxhash/v2"
)

// virtualNodes is how often each member lies on the circle: 100 keeps the primaries within 25 % of
// their average without moving them between survivors when a member comes or goes.
const virtualNodes = 100

// A Member is what placement needs to know of a node. Members in one zone share a fate, such as a rack;
// the empty zone is a zone like any other.
type Member struct{ Name, Zone string }

// Targets returns for each partition the wanted nodes, primary first, as indexes into members. The
// result depends on the set of members alone, not on their order. A row has replicas entries (the
// number of copies, the primary included), or fewer when there are fewer members.
//
// Primaries come from consistent hashing with bounded load: no member gets more than a quarter above
// its share (see primaryLimit), but for the partitions of rules. The other copies of a partition go to
// the members that rank highest in a rendezvous hash, first those in zones that hold no copy yet. So
// the backups of one member's partitions are spread over all the others.
//
// There must be no more members than partitions; rules do not count as partitions here.
func (c Config) Targets(members []Member, replicas int) ([][]uint16, error) {
	if err := errors.Join(c.Validate(), c.checkMembers(members, replicas)); err != nil {
		return nil, err
	}
	sorted := make([]uint16, len(members)) // ascending by name
	for i := range sorted {
		sorted[i] = uint16(i)
	}
	slices.SortFunc(sorted, func(a, b uint16) int { return cmp.Compare(members[a].Name, members[b].Name) })

	primaries, err := c.primaries(members, sorted)
	if err != nil {
		return nil, err
	}
	p := placement{members: members, sorted: sorted, copies: min(replicas, len(members))}
	rows := make([][]uint16, c.Count())
	for i := range rows {
		if len(members) > 0 {
			rows[i] = p.row(Partition(i), primaries[i])
		}
	}
	return rows, nil
}

func (c Config) checkMembers(members []Member, replicas int) error {
	var faults faults
	if replicas < 1 {
		faults.add("replicas = %d, want at least 1", replicas)
	}
	if len(members) > MaxMembers {
		faults.add("%d members, want at most %d", len(members), MaxMembers)
	}
	if placed := c.placed(); len(members) > placed {
		faults.add("%d members, but only %d partitions to place on them", len(members), placed)
	}
	seen := make(map[string]bool, len(members))
	for i, m := range members {
		if n := len(m.Name); n == 0 || n > MaxNameBytes {
			faults.add("member %d: the name has %d bytes, want 1 to %d", i, n, MaxNameBytes)
		} else if seen[m.Name] {
			faults.add("two members are named %q", m.Name)
		}
		seen[m.Name] = true
	}
	return errors.Join(faults...)
}

// placed is the number of partitions whose primary is chosen by consistent hashing.
func (c Config) placed() int {
	c = c.canonical()
	if c.Strategy == Range {
		return c.Count()
	}
	return c.Partitions
}

// primaryLimit is how many of placed partitions one of n members may get: ceil(1.25 * floor(placed/n)).
// With n <= placed that times n is never below placed, so there is always room.
func primaryLimit(placed, n int) int { return (placed/n*5 + 3) / 4 }

// primaries returns the primary of every partition. The partition of a rule goes to the node that it
// names; when that is not a member, to where its prefix would be as a key without rules.
func (c Config) primaries(members []Member, sorted []uint16) ([]uint16, error) {
	if len(members) == 0 {
		return nil, nil
	}
	primaries, err := circle(members, sorted, c.placed())
	if err != nil {
		return nil, err
	}
	byName := make(map[string]uint16, len(members))
	for i, m := range members {
		byName[m.Name] = uint16(i)
	}
	for _, rule := range c.Rules {
		primary, ok := byName[rule.Node]
		if !ok {
			primary = primaries[xxhash.Sum64String(rule.Prefix)%uint64(c.placed())]
		}
		primaries = append(primaries, primary)
	}
	return primaries, nil
}

// A vnode is a member on the circle. Its String ends in a non-digit, since the library joins it with
// numbers.
type vnode struct {
	name  string
	index uint16
}

func (v vnode) String() string { return v.name + "/" }

type hasher struct{}

func (hasher) Sum64(b []byte) uint64 { return xxhash.Sum64(b) }

// circle places partitions on members, which it adds in sorted order. The library panics when it finds
// no room; primaryLimit excludes that, and should it be wrong the caller gets an error, not a crash.
func circle(members []Member, sorted []uint16, partitions int) (primaries []uint16, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("ring: cannot place %d partitions on %d members: %v", partitions, len(members), p)
		}
	}()
	vnodes := make([]consistent.Member, 0, len(members))
	for _, i := range sorted {
		vnodes = append(vnodes, vnode{members[i].Name, i})
	}
	limit, average := primaryLimit(partitions, len(members)), float64(partitions)/float64(len(members))
	c := consistent.New(vnodes, consistent.Config{
		Hasher:            hasher{},
		PartitionCount:    partitions,
		ReplicationFactor: virtualNodes,
		// The library's limit is ceil(average * Load). Half a partition below ours it rounds up to ours.
		Load: (float64(limit) - 0.5) / average,
	})
	primaries = make([]uint16, partitions)
	for i := range primaries {
		primaries[i] = c.GetPartitionOwner(i).(vnode).index
	}
	return primaries, nil
}

// A placement ranks members for one partition after the other.
type placement struct {
	members []Member
	sorted  []uint16 // ascending by name, which decides between equal scores
	copies  int

	ranked []candidate // scratch space of row
	buf    []byte      // scratch space of score
}

type candidate struct {
	index uint16
	score uint64
}

// row returns primary and then the best other members: those that open a new zone, then the rest.
func (p *placement) row(partition Partition, primary uint16) []uint16 {
	row := append(make([]uint16, 0, p.copies), primary)
	if p.copies == 1 {
		return row
	}
	p.rank(partition)
	for _, needNewZone := range []bool{true, false} {
		for _, c := range p.ranked {
			if len(row) == p.copies {
				return row
			}
			if !slices.Contains(row, c.index) && !(needNewZone && p.zoneIn(row, c.index)) {
				row = append(row, c.index)
			}
		}
	}
	return row
}

// rank orders all members by their rendezvous hash with partition, best first.
func (p *placement) rank(partition Partition) {
	p.ranked = p.ranked[:0]
	for _, i := range p.sorted {
		p.ranked = append(p.ranked, candidate{i, p.score(partition, p.members[i].Name)})
	}
	slices.SortStableFunc(p.ranked, func(a, b candidate) int { return cmp.Compare(b.score, a.score) })
}

func (p *placement) score(partition Partition, name string) uint64 {
	p.buf = binary.LittleEndian.AppendUint16(p.buf[:0], uint16(partition))
	p.buf = append(p.buf, name...)
	return xxhash.Sum64(p.buf)
}

func (p *placement) zoneIn(row []uint16, index uint16) bool {
	return slices.ContainsFunc(row, func(i uint16) bool { return p.members[i].Zone == p.members[index].Zone })
}
