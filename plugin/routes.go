package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/docker/go-plugins-helpers/volume"
	"github.com/sirupsen/logrus"
)

// scope tells Docker that a volume is the same on every host.
const scope = "global"

// routes are the calls of the volume protocol
// (docs.docker.com/engine/extend/plugins_volume/).
func (s *Server) routes() {
	s.handle("Create", logrus.InfoLevel, s.create)
	s.handle("Remove", logrus.InfoLevel, s.remove)
	s.handle("Mount", logrus.InfoLevel, s.mount)
	s.handle("Unmount", logrus.InfoLevel, s.unmount)
	s.handle("Get", logrus.DebugLevel, s.get)
	s.handle("List", logrus.DebugLevel, s.answerList)
	s.handle("Path", logrus.DebugLevel, s.path)
	s.handle("Capabilities", logrus.DebugLevel, s.capabilities)
}

func (s *Server) create(ctx context.Context, c *call) error {
	if err := s.volumes.Create(ctx, c.Name, c.Opts); err != nil {
		return err
	}
	return c.answer(struct{}{})
}

func (s *Server) remove(ctx context.Context, c *call) error {
	if err := s.volumes.Remove(ctx, c.Name); err != nil {
		return err
	}
	return c.answer(struct{}{})
}

func (s *Server) mount(ctx context.Context, c *call) error {
	return s.volumes.Mount(ctx, c.Name, c.ID, func(mountpoint string) error {
		if mountpoint == "" {
			// The container would get the plugin's own root file system.
			return errors.New("the volume has no mountpoint")
		}
		return c.answer(volume.MountResponse{Mountpoint: mountpoint})
	})
}

func (s *Server) unmount(_ context.Context, c *call) error {
	if err := s.volumes.Unmount(c.Name, c.ID); err != nil {
		return err
	}
	return c.answer(struct{}{})
}

func (s *Server) get(ctx context.Context, c *call) error {
	info, err := s.volumes.Get(ctx, c.Name)
	if err != nil {
		return err
	}
	found := &volume.Volume{Name: info.Name, Mountpoint: info.Mountpoint, Status: info.Status}
	found.CreatedAt = createdAt(info.Created)
	return c.answer(volume.GetResponse{Volume: found})
}

// createdAt is a time as the engine reads it, or nothing: any other text than
// RFC 3339, which ends with the year 9999, makes the engine forget the volume.
func createdAt(created time.Time) string {
	created = created.UTC()
	if year := created.Year(); created.IsZero() || year < 0 || year > 9999 {
		return ""
	}
	return created.Format(time.RFC3339)
}

func (s *Server) path(ctx context.Context, c *call) error {
	mountpoint, err := s.volumes.Mountpoint(ctx, c.Name)
	if err != nil {
		return err
	}
	return c.answer(volume.PathResponse{Mountpoint: mountpoint})
}

func (s *Server) capabilities(_ context.Context, c *call) error {
	return c.answer(volume.CapabilitiesResponse{Capabilities: volume.Capability{Scope: scope}})
}

// listAnswer keeps the encoded list of one generation: the engine asks often, and
// encoding 10,000 volumes takes longer than sending them.
type listAnswer struct {
	mu         sync.Mutex // guards the following fields
	generation uint64
	encoded    []byte
}

func (s *Server) answerList(ctx context.Context, c *call) error {
	encoded, err := s.encodedList(ctx)
	if err != nil {
		return err
	}
	return c.answer(encoded)
}

func (s *Server) encodedList(ctx context.Context) ([]byte, error) {
	summaries, generation := s.volumes.List(ctx)
	s.list.mu.Lock()
	defer s.list.mu.Unlock()
	if s.list.encoded != nil && s.list.generation == generation {
		return s.list.encoded, nil
	}
	volumes := make([]*volume.Volume, len(summaries))
	for i, summary := range summaries {
		volumes[i] = &volume.Volume{Name: summary.Name, Mountpoint: summary.Mountpoint}
	}
	encoded, err := json.Marshal(volume.ListResponse{Volumes: volumes})
	if err != nil {
		return nil, err
	}
	s.list.generation, s.list.encoded = generation, encoded
	return encoded, nil
}
