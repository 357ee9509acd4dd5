package session

// They are here for the fuzz tests.
var (
	DecodeReply = decodeReply
	ReadRecord  = readRecord
)

const MaxReply = maxReply
