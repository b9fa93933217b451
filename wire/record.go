package wire

// A record is one version of a key's value in the memory of its owner: the fields below, the key, the value. It begins
// at a multiple of 8 bytes. Processes of the owner's host may read it by themselves, so what it looks like is theirs to
// know as much as package storage's, which says in what order the owner changes it.
const (
	RecordState      = 0  // u64, one word: RecordLive, RecordVersion, and bits that are nothing to a reader
	RecordGeneration = 8  // u64
	RecordDeadline   = 16 // i64, nanoseconds of the owner's clock; 0: for ever
	RecordValueBytes = 24 // u32
	RecordCRC        = 28 // u32, CRC32C of the value
	RecordKeyBytes   = 32 // u16
	RecordPartition  = 34 // u16
	RecordKey        = 40 // the value follows the key

	RecordLive    = 1                // in the state: the current version of its key
	RecordVersion = 0xffffffff << 32 // in the state: grows whenever RecordLive changes
)
