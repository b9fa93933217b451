package state

import "fmt"

// Events says, one line each, what an operator would want to know of the way from old, which may be nil,
// to s: who came and went, and above all what was lost.
func (s *State) Events(old *State) []string {
	var events []string
	add := func(format string, args ...any) { events = append(events, fmt.Sprintf(format, args...)) }
	if old == nil {
		return events
	}
	if s.Era != old.Era {
		add("the control plane was founded anew: era %d", s.Era)
	}
	lost, doubts, accepted := map[Incarnation]int{}, 0, 0 // lost with their primary
	for p := range s.Rows {
		if p < len(old.Rows) {
			if n := s.Rows[p].LossCount - old.Rows[p].LossCount; n > 0 {
				lost[old.Rows[p].Primary] += int(n)
			}
			doubts += int(s.Rows[p].Doubts - old.Rows[p].Doubts)
			accepted += int(s.Rows[p].LossAccepted - old.Rows[p].LossAccepted)
		}
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		switch was := old.Node(n.Incarnation); {
		case was == nil && old.Named(n.Name) != nil:
			gone := old.Named(n.Name).Incarnation
			add("%s is back at %s as a new process: %d partitions lost and recreated empty", n.Name, n.Addr, lost[gone])
			delete(lost, gone)
		case was == nil:
			add("%s joins at %s", n.Name, n.Addr)
		case was.Status != n.Status && n.Status != Gone:
			add("%s is %v, was %v", n.Name, n.Status, was.Status)
		}
	}
	for i := range old.Nodes {
		n := &old.Nodes[i]
		switch now := s.Node(n.Incarnation); {
		case n.Status == Gone || now != nil && now.Status != Gone:
		case s.Named(n.Name) != nil: // told above
		case n.Status == Leaving:
			add("%s has left", n.Name)
		default:
			add("%s was absent and is given up: %d partitions lost and recreated empty", n.Name, lost[n.Incarnation])
			delete(lost, n.Incarnation)
		}
	}
	rest := 0
	for _, n := range lost {
		rest += n
	}
	if rest > 0 {
		add("%d partitions have lost all copies and start empty", rest)
	}
	if doubts > 0 {
		add("%d partitions may have lost acknowledged writes", doubts)
	}
	if accepted > 0 {
		add("%d losses were accepted", accepted)
	}
	return events
}
