package proxy

// CheckNull is here for its fuzz test.
var CheckNull = checkNull
