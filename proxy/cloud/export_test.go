package cloud

// Lasting keeps the keys of a role, as they are kept for those of AWS STS.
var Lasting = lasting
