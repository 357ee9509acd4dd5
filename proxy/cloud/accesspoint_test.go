package cloud_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/docker-volume-efs/docker-volume-efs/proxy/cloud"
)

// accessPoints plays the part of the EFS API that is about them, with one access point.
type accessPoints struct {
	there   map[string]any // nil: none
	state   string
	created int
	deleted int
}

func (p *accessPoints) says(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		p.created++
		var asked map[string]any
		_ = json.NewDecoder(r.Body).Decode(&asked)
		if p.there != nil && p.there["ClientToken"] == asked["ClientToken"] {
			w.Header().Set("X-Amzn-Errortype", "AccessPointAlreadyExists")
			w.WriteHeader(http.StatusConflict)
			answer(w, map[string]any{"ErrorCode": "AccessPointAlreadyExists", "Message": "exists", "AccessPointId": "fsap-0123456789abcdef0"})
			return
		}
		asked["AccessPointId"] = "fsap-0123456789abcdef0"
		p.there = asked
		answer(w, asked)
	case http.MethodDelete:
		p.deleted++
		p.there = nil
		w.WriteHeader(http.StatusNoContent)
	default:
		if p.there == nil {
			refuse(w, http.StatusNotFound, "AccessPointNotFound", "Access point does not exist.")
			return
		}
		p.there["LifeCycleState"] = p.state
		if p.state == "creating" {
			p.state = "available"
		}
		answer(w, map[string]any{"AccessPoints": []any{p.there}})
	}
}

func wanted(change func(*cloud.AccessPoint)) cloud.AccessPoint {
	id := uint32(70)
	a := cloud.AccessPoint{FileSystem: cloud.FileSystem{ID: fileSystem}, Path: "/apps/web", UID: &id, GID: &id, Mode: 0o750, Owner: "catalogue", Volume: "web"}
	if change != nil {
		change(&a)
	}
	return a
}

func TestCreateAccessPoint(t *testing.T) {
	p := &accessPoints{state: "creating"}
	newAPI(t, p.says)
	c := cloud.New(cloud.Options{})
	for range 2 {
		made, err := c.CreateAccessPoint(t.Context(), "", wanted(nil))
		if err != nil || made.ID != "fsap-0123456789abcdef0" || made.Owner != "catalogue" || made.Volume != "web" || made.Path != "/apps/web" || *made.UID != 70 {
			t.Errorf("%+v, %v", made, err)
		}
	}
	root, _ := p.there["RootDirectory"].(map[string]any)
	info, _ := root["CreationInfo"].(map[string]any)
	if root["Path"] != "/apps/web" || info["OwnerUid"] != 70.0 || info["OwnerGid"] != 70.0 || info["Permissions"] != "0750" {
		t.Errorf("the directory is asked for as %v", root)
	}
	other := uint32(71)
	_, err := c.CreateAccessPoint(t.Context(), "", wanted(func(a *cloud.AccessPoint) { a.UID = &other }))
	if !errors.Is(err, cloud.ErrAccessPointDiffers) {
		t.Errorf("another user: %v", err)
	}
}

func TestCreateAccessPointFails(t *testing.T) {
	for _, row := range []struct{ code, says string }{
		{"AccessPointLimitExceeded", "have the quota raised"},
		{"ThrottlingException", "AWS limits how often"},
		{"AccessDeniedException", "allow the action elasticfilesystem:CreateAccessPoint"},
	} {
		t.Run(row.code, func(t *testing.T) {
			newAPI(t, func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusForbidden, row.code, "no") })
			if _, err := cloud.New(cloud.Options{}).CreateAccessPoint(t.Context(), "", wanted(nil)); err == nil || !strings.Contains(err.Error(), row.says) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("one that is being deleted", func(t *testing.T) {
		newAPI(t, (&accessPoints{state: "deleting"}).says)
		if _, err := cloud.New(cloud.Options{}).CreateAccessPoint(t.Context(), "", wanted(nil)); err == nil || !strings.Contains(err.Error(), "try again") {
			t.Errorf("error %v", err)
		}
	})
}

func TestDeleteAccessPoint(t *testing.T) {
	tags := func(owner string) []any {
		return []any{map[string]any{"Key": "docker-volume-efs", "Value": owner}, map[string]any{"Key": "Name", "Value": "web"}}
	}
	for _, row := range []struct {
		name    string
		there   map[string]any
		deleted int
		says    string
	}{
		{"deletes the volume's own", map[string]any{"FileSystemId": fileSystem, "Tags": tags("catalogue")}, 1, ""},
		{"finds it gone", nil, 0, ""},
		{"leaves another catalogue's", map[string]any{"FileSystemId": fileSystem, "Tags": tags("other")}, 0, "was not made for this volume"},
		{"leaves one of another volume", map[string]any{"FileSystemId": fileSystem, "Tags": append(tags("catalogue")[:1:1], map[string]any{"Key": "Name", "Value": "db"})}, 0, "was not made for this volume"},
		{"leaves one that somebody else made", map[string]any{"FileSystemId": fileSystem}, 0, "was not made for this volume"},
		{"leaves one of another file system", map[string]any{"FileSystemId": "fs-01234567", "Tags": tags("catalogue")}, 0, "was not made for this volume"},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := &accessPoints{there: row.there, state: "available"}
			newAPI(t, p.says)
			err := cloud.New(cloud.Options{}).DeleteAccessPoint(t.Context(), "", wanted(func(a *cloud.AccessPoint) { a.ID = "fsap-0123456789abcdef0" }))
			if errors.Is(err, cloud.ErrNotOwn) != (row.says != "") {
				t.Errorf("error %v", err)
			}
			if p.deleted != row.deleted || (err == nil) != (row.says == "") || err != nil && !strings.Contains(err.Error(), row.says) {
				t.Errorf("deleted %d, %v", p.deleted, err)
			}
		})
	}
}

// A volume that was never finished has no id of its access point.
func TestDeleteAccessPointByItsTags(t *testing.T) {
	p := &accessPoints{state: "available", there: map[string]any{"FileSystemId": fileSystem, "AccessPointId": "fsap-0123456789abcdef0", "Tags": []any{
		map[string]any{"Key": "docker-volume-efs", "Value": "catalogue"}, map[string]any{"Key": "Name", "Value": "web"},
	}}}
	newAPI(t, p.says)
	c := cloud.New(cloud.Options{})
	if err := c.DeleteAccessPoint(t.Context(), "", wanted(func(a *cloud.AccessPoint) { a.Volume = "db" })); err != nil || p.deleted != 0 {
		t.Errorf("another volume's: deleted %d, %v", p.deleted, err)
	}
	if err := c.DeleteAccessPoint(t.Context(), "", wanted(nil)); err != nil || p.deleted != 1 {
		t.Errorf("deleted %d, %v", p.deleted, err)
	}
}
