package replica

// RecordBytes counts anew what p remembers writes in.
func (p *Partition) RecordBytes() (n int64) {
	if p.memory == nil {
		return 0
	}
	n = slotBytes * int64(p.memory.most)
	for _, h := range p.memory.clients {
		n += historyBytes + recordBytes*int64(cap(h.memos))
	}
	return n
}

// AckBytes counts anew what r holds itself.
func (r *Records) AckBytes() int64 { return ackBytes * int64(r.most) }
