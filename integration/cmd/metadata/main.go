// Command metadata plays EC2's instance metadata service, version 2: it gives what lies in
// a directory, to who has a token. Nobody outside the tests uses it.
//
//	metadata -listen 169.254.169.254:80 -dir metadata/
//
// A file "hang" in the directory makes it silent.
package main

import (
	"crypto/rand"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "metadata:", err)
		os.Exit(1)
	}
}

func serve() error {
	listen, dir := flag.String("listen", "", "address"), flag.String("dir", "", "directory of what it tells")
	flag.Parse()
	token := rand.Text()
	http.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		await(r, *dir)
		w.Header().Set("X-aws-ec2-metadata-token-ttl-seconds", "21600")
		fmt.Fprint(w, token)
	})
	http.HandleFunc("GET /latest/meta-data/{path...}", func(w http.ResponseWriter, r *http.Request) {
		await(r, *dir)
		if r.Header.Get("X-aws-ec2-metadata-token") != token {
			http.Error(w, "no token", http.StatusUnauthorized)
			return
		}
		name := filepath.Join(*dir, filepath.Clean("/"+r.PathValue("path")))
		if info, err := os.Stat(name); err == nil && info.IsDir() {
			entries, _ := os.ReadDir(name)
			for _, e := range entries {
				fmt.Fprintln(w, e.Name())
			}
			return
		}
		text, err := os.ReadFile(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(text)
	})
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return http.Serve(listener, nil) //nolint:gosec // in a test's own network
}

// await is for good where it hangs.
func await(r *http.Request, dir string) {
	if _, err := os.Stat(filepath.Join(dir, "hang")); err == nil {
		<-r.Context().Done()
	}
}
