// Package systemd takes the sockets that systemd listens on for a service, and tells it
// how the service gets on (sd_listen_fds(3), sd_notify(3)).
//
// It is small and our own for one reason: a gateway that quietly starts without the socket
// that it was given would listen on nothing, or on too much. What is malformed here is an
// error that says what to do; libraries for this give an empty list.
//
// It keeps nothing. Only [Listeners] changes the process: it takes the variables away, so
// that a child does not believe that they are its own.
//
//	sockets, err := systemd.Listeners()
//	err = systemd.Notify("READY=1")
package systemd
