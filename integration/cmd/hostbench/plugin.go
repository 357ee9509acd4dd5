package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	baseDir = "/run/bench"
	dataDir = baseDir + "/data"
)

// service is a running plugin.
type service struct {
	command *exec.Cmd
	client  http.Client
}

// serve starts the plugin and waits until it listens; it returns how long that took
// from the start of the process. Further settings are NAME=value.
func serve(c config, fileSystem string, settings ...string) (*service, time.Duration, error) {
	return serveIn(baseDir, c, fileSystem, settings...)
}

// serveIn is serve of a plugin that has its socket and its data in a directory of its own.
func serveIn(dir string, c config, fileSystem string, settings ...string) (*service, time.Duration, error) {
	data, socket := filepath.Join(dir, "data"), filepath.Join(dir, "efs.sock")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, 0, err
	}
	s := &service{command: exec.Command(c.program, "serve", "--socket", socket, "--data", data)}
	s.command.Env = slices.Concat(os.Environ(), []string{"EFS_FILESYSTEM=" + fileSystem, "EFS_LOG_LEVEL=error"}, settings)
	s.command.Stdout, s.command.Stderr = os.Stderr, os.Stderr
	s.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	begin := time.Now()
	if err := s.command.Start(); err != nil {
		return nil, 0, err
	}
	for time.Since(begin) < 10*time.Second {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			took := time.Since(begin)
			return s, took, conn.Close()
		}
		time.Sleep(200 * time.Microsecond)
	}
	return nil, 0, fmt.Errorf("plugin does not listen")
}

func (s *service) stop() error {
	s.client.CloseIdleConnections()
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.command.Wait()
}

// signal sends the plugin's processes a signal.
func (s *service) signal(signal syscall.Signal) error {
	processes, err := s.processes()
	if err != nil {
		return err
	}
	for _, pid := range processes {
		if err := syscall.Kill(pid, signal); err != nil {
			return err
		}
	}
	return nil
}

// processes are the plugin's: the worker, which is in a process group of its own, and its parent.
func (s *service) processes() ([]int, error) {
	pid := s.command.Process.Pid
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // by the thread that forked
	if err != nil {
		return nil, err
	}
	var all []int
	for _, list := range lists {
		children, err := os.ReadFile(list)
		if err != nil {
			return nil, err
		}
		for child := range strings.FieldsSeq(string(children)) {
			worker, err := strconv.Atoi(child)
			if err != nil {
				return nil, err
			}
			all = append(all, worker)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("process %d has no worker", pid)
	}
	return append(all, pid), nil
}

// call asks the plugin as Docker does.
func (s *service) call(name string, request any) error {
	return s.ask(name, request, nil)
}

// ask is call for whoever wants to know the answer.
func (s *service) ask(name string, request, result any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	response, err := s.client.Post("http://plugin/VolumeDriver."+name, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", name, answer)
	}
	if err != nil || result == nil {
		return err
	}
	return json.Unmarshal(answer, result)
}

type volume struct {
	Name string
	ID   string            `json:",omitempty"`
	Opts map[string]string `json:",omitempty"`
}

// fresh removes what an earlier measurement left.
func fresh() error {
	for _, dir := range []string{"volumes", "peers"} {
		mounts, err := filepath.Glob(filepath.Join(baseDir, "*", dir, "*"))
		if err != nil {
			return err
		}
		for _, mount := range mounts {
			_ = syscall.Unmount(mount, syscall.MNT_DETACH)
		}
	}
	return os.RemoveAll(filepath.Join(dataDir, "state"))
}
