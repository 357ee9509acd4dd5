//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// bareError is an error that the plugin answered. Any other error of a call means
// that no answer came.
type bareError struct{ call, text string }

func (e bareError) Error() string { return e.call + ": " + e.text }

// call makes one of Docker's calls.
func (p *barePlugin) call(ctx context.Context, name string, request, response any) error {
	ctx, cancel := context.WithTimeout(ctx, bareCallLimit)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/VolumeDriver."+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := p.docker.Do(r)
	if err != nil {
		return fmt.Errorf("%s got no answer: %w", name, err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("%s got half an answer: %w", name, err)
	}
	if answer.StatusCode != http.StatusOK {
		var failed struct{ Err string }
		if err := json.Unmarshal(content, &failed); err != nil || failed.Err == "" {
			return fmt.Errorf("%s: the answer %d is no error as Docker understands it: %q", name, answer.StatusCode, content)
		}
		return bareError{name, failed.Err}
	}
	return json.Unmarshal(content, response)
}

type bareRequest struct {
	Name string
	ID   string            `json:",omitempty"`
	Opts map[string]string `json:",omitempty"`
}

// create takes options as KEY=VALUE.
func (p *barePlugin) create(name string, options ...string) error {
	opts := map[string]string{}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		opts[key] = value
	}
	return p.call(p.t.Context(), "Create", bareRequest{Name: name, Opts: opts}, &struct{}{})
}

func (p *barePlugin) mount(name, id string) (mountpoint string, err error) {
	var answer struct{ Mountpoint string }
	err = p.call(p.t.Context(), "Mount", bareRequest{Name: name, ID: id}, &answer)
	return answer.Mountpoint, err
}

func (p *barePlugin) unmount(name, id string) error {
	return p.call(p.t.Context(), "Unmount", bareRequest{Name: name, ID: id}, &struct{}{})
}

func (p *barePlugin) remove(name string) error {
	return p.call(p.t.Context(), "Remove", bareRequest{Name: name}, &struct{}{})
}

// bareVolume is what Get tells.
type bareVolume struct {
	Name, Mountpoint, CreatedAt string
	Status                      struct {
		FileSystem string            `json:"filesystem"`
		Path       string            `json:"path"`
		Transport  string            `json:"transport"`
		Options    map[string]string `json:"options"`
		Mounted    bool              `json:"mounted"`
		Mounts     map[string]int    `json:"mounts"`
		Trouble    []string          `json:"trouble"`
	}
}

func (p *barePlugin) get(name string) (bareVolume, error) {
	var answer struct{ Volume bareVolume }
	err := p.call(p.t.Context(), "Get", bareRequest{Name: name}, &answer)
	return answer.Volume, err
}

func (p *barePlugin) list() ([]string, error) {
	var answer struct{ Volumes []struct{ Name string } }
	err := p.call(p.t.Context(), "List", struct{}{}, &answer)
	names := make([]string, len(answer.Volumes))
	for i, v := range answer.Volumes {
		names[i] = v.Name
	}
	return names, err
}

// bareStatus is what docker-volume-efs status shows.
type bareStatus struct {
	FileSystems []struct{ FileSystem, Trouble string }
	Mounted     []struct {
		Volume  string
		Mounts  map[string]int
		Trouble []string
	}
}

func (p *barePlugin) status() bareStatus {
	p.t.Helper()
	var s bareStatus
	// The control socket comes a moment after Docker's.
	if err := bareWait(p.t, moment, func() error { return p.askStatus(&s) }); err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *barePlugin) askStatus(s *bareStatus) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://plugin/status.json", nil)
	if err != nil {
		return err
	}
	answer, err := p.control.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	*s = bareStatus{}
	return json.NewDecoder(answer.Body).Decode(s)
}

// mustCreate, mustMount … are calls that have to work.
func (p *barePlugin) mustCreate(name string, options ...string) {
	p.t.Helper()
	if err := p.create(name, options...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *barePlugin) mustMount(name, id string) (mountpoint string) {
	p.t.Helper()
	mountpoint, err := p.mount(name, id)
	if err != nil {
		p.t.Fatal(err)
	}
	return mountpoint
}

func (p *barePlugin) mustUnmount(name, id string) {
	p.t.Helper()
	if err := p.unmount(name, id); err != nil {
		p.t.Fatal(err)
	}
}

func (p *barePlugin) mustRemove(name string) {
	p.t.Helper()
	if err := p.remove(name); err != nil {
		p.t.Fatal(err)
	}
}

func (p *barePlugin) mustGet(name string) bareVolume {
	p.t.Helper()
	v, err := p.get(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return v
}
