package resp

// A glob is a pattern of KEYS, SCAN and CONFIG GET: * for any bytes, ? for one, [a-c] and [^a-c] for one of a
// set, and a backslash before what stands for itself.
type glob []byte

// prefix returns what every match begins with.
func (g glob) prefix() []byte {
	var p []byte
	for i := 0; i < len(g); i++ {
		switch g[i] {
		case '*', '?', '[':
			return p
		case '\\':
			if i+1 < len(g) {
				i++
			}
		}
		p = append(p, g[i])
	}
	return p
}

// all reports that everything with the prefix matches.
func (g glob) all() bool {
	n := 0
	for n < len(g) && g[n] != '*' {
		if g[n] == '?' || g[n] == '[' || g[n] == '\\' {
			return false
		}
		n++
	}
	for _, b := range g[n:] {
		if b != '*' {
			return false
		}
	}
	return n < len(g)
}

// match takes at most len(g) times len(s) steps: after a mismatch only the last * may take one more byte,
// since whatever an earlier one could take, the last one can.
func (g glob) match(s []byte) bool {
	star, from := -1, 0 // after the last *, and where in s its match ends
	p, i := 0, 0
	for i < len(s) {
		if p < len(g) && g[p] == '*' {
			p++
			star, from = p, i
			continue
		}
		if n, ok := g.one(p, s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		from++
		p, i = star, from
	}
	for p < len(g) && g[p] == '*' {
		p++
	}
	return p == len(g)
}

// one reports whether the element at p, of n bytes, matches b.
func (g glob) one(p int, b byte) (n int, ok bool) {
	if p >= len(g) {
		return 0, false
	}
	switch g[p] {
	case '?':
		return 1, true
	case '[':
		return g.class(p, b)
	case '\\':
		if p+1 < len(g) {
			return 2, g[p+1] == b
		}
	}
	return 1, g[p] == b
}

// class is one for a set, which may lack its closing bracket at the pattern's end, as in Redis.
func (g glob) class(p int, b byte) (n int, ok bool) {
	i := p + 1
	not := i < len(g) && g[i] == '^'
	if not {
		i++
	}
	for ; i < len(g) && g[i] != ']'; i++ {
		switch {
		case g[i] == '\\' && i+1 < len(g):
			i++
			ok = ok || g[i] == b
		case i+2 < len(g) && g[i+1] == '-':
			low, high := g[i], g[i+2]
			if low > high {
				low, high = high, low
			}
			ok = ok || low <= b && b <= high
			i += 2
		default:
			ok = ok || g[i] == b
		}
	}
	return min(i+1, len(g)) - p, ok != not
}
