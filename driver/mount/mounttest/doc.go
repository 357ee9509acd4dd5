// Package mounttest lets tests mount without being root: it runs a test binary again
// as root of namespaces of its own. It holds no tests and no fakes.
//
//	func TestMain(m *testing.M) { mounttest.Main(m) }
package mounttest
