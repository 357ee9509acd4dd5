package cloud

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/efs"
	"github.com/aws/aws-sdk-go-v2/service/efs/types"
)

// AccessPoint is a directory of a file system that clients see as its root, as a user
// that the server chooses.
type AccessPoint struct {
	ID         string
	FileSystem FileSystem
	// Path is the directory, from the file system's own root.
	Path string
	// UID and GID are whom the server takes every client for, and whom a directory
	// belongs to that it makes; nil: clients say who they are.
	UID, GID *uint32
	// Mode is that of a directory that the server makes.
	Mode uint32
	// Owner is the catalogue whose volume it was made for; "" if it was not made here.
	Owner string
	// Volume is the name of that volume.
	Volume string
}

const (
	// ownerTag marks what was made here; nothing else is ever deleted.
	ownerTag = "docker-volume-efs"
	nameTag  = "Name"
	// availableLimit is for a new access point to be ready, which takes a second or two.
	availableLimit = 15 * time.Second
	availablePause = 500 * time.Millisecond
)

// ErrAccessPointDiffers reports that an access point is there and is not the one that was
// asked for.
var ErrAccessPointDiffers = errors.New("the access point is there with another path or user")

// CreateAccessPoint makes the access point of a volume and waits until it is ready. It may
// be repeated, by several hosts at once: the volume's name and the catalogue decide which
// it is.
func (c *Cloud) CreateAccessPoint(ctx context.Context, role string, wanted AccessPoint) (AccessPoint, error) {
	client, err := c.efs(ctx, wanted.FileSystem, role)
	if err != nil {
		return AccessPoint{}, err
	}
	input := &efs.CreateAccessPointInput{
		ClientToken: aws.String(token(wanted)), FileSystemId: &wanted.FileSystem.ID,
		RootDirectory: &types.RootDirectory{Path: &wanted.Path},
		Tags:          []types.Tag{{Key: aws.String(nameTag), Value: &wanted.Volume}, {Key: aws.String(ownerTag), Value: &wanted.Owner}},
	}
	if wanted.UID != nil && wanted.GID != nil {
		uid, gid := int64(*wanted.UID), int64(*wanted.GID)
		input.PosixUser = &types.PosixUser{Uid: &uid, Gid: &gid}
		input.RootDirectory.CreationInfo = &types.CreationInfo{OwnerUid: &uid, OwnerGid: &gid, Permissions: aws.String(fmt.Sprintf("%04o", wanted.Mode))}
	} else {
		var root int64
		input.RootDirectory.CreationInfo = &types.CreationInfo{OwnerUid: &root, OwnerGid: &root, Permissions: aws.String(fmt.Sprintf("%04o", wanted.Mode))}
	}
	var id string
	made, err := client.CreateAccessPoint(ctx, input)
	var exists *types.AccessPointAlreadyExists
	switch {
	case errors.As(err, &exists):
		id = aws.ToString(exists.AccessPointId)
	case err != nil:
		return AccessPoint{}, explain("elasticfilesystem:CreateAccessPoint on "+wanted.FileSystem.ID, role, err)
	default:
		id = aws.ToString(made.AccessPointId)
	}
	ready, err := c.available(ctx, client, role, id)
	if err == nil && !ready.serves(wanted) {
		err = fmt.Errorf("%s of volume %q: %w: it has %s", id, wanted.Volume, ErrAccessPointDiffers, ready.Path)
	}
	return ready, err
}

// serves tells whether one is what another asks for.
func (a AccessPoint) serves(wanted AccessPoint) bool {
	return a.FileSystem.ID == wanted.FileSystem.ID && a.Path == wanted.Path && idText(a.UID) == idText(wanted.UID) && idText(a.GID) == idText(wanted.GID)
}

func idText(id *uint32) string {
	if id == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*id), 10)
}

// token makes repeated creations one, in at most 64 characters.
func token(a AccessPoint) string {
	sum := sha256.Sum256([]byte(a.Owner + "\n" + a.Volume + "\n" + a.Path))
	return hex.EncodeToString(sum[:])
}

func (c *Cloud) available(ctx context.Context, client *efs.Client, role, id string) (AccessPoint, error) {
	limited, cancel := context.WithTimeout(ctx, availableLimit)
	defer cancel()
	for {
		a, state, err := describe(limited, client, role, id)
		if err != nil {
			return AccessPoint{}, err
		}
		switch state {
		case types.LifeCycleStateAvailable:
			return a, nil
		case types.LifeCycleStateDeleting, types.LifeCycleStateDeleted, types.LifeCycleStateError:
			return AccessPoint{}, fmt.Errorf("access point %s is %s: try again in a minute", id, state)
		}
		timer := time.NewTimer(availablePause)
		select {
		case <-timer.C:
		case <-limited.Done():
			timer.Stop()
			return AccessPoint{}, fmt.Errorf("access point %s is still %s after %v; try again", id, state, availableLimit)
		}
	}
}

// AccessPoint asks for one of a file system's.
func (c *Cloud) AccessPoint(ctx context.Context, f FileSystem, role, id string) (AccessPoint, error) {
	client, err := c.efs(ctx, f, role)
	if err != nil {
		return AccessPoint{}, err
	}
	a, _, err := describe(ctx, client, role, id)
	return a, err
}

func describe(ctx context.Context, client *efs.Client, role, id string) (AccessPoint, types.LifeCycleState, error) {
	answer, err := client.DescribeAccessPoints(ctx, &efs.DescribeAccessPointsInput{AccessPointId: &id})
	if err != nil {
		return AccessPoint{}, "", explain("elasticfilesystem:DescribeAccessPoints of "+id, role, err)
	}
	if len(answer.AccessPoints) != 1 {
		return AccessPoint{}, "", fmt.Errorf("AWS shows %d access points of id %s", len(answer.AccessPoints), id)
	}
	return readAccessPoint(answer.AccessPoints[0]), answer.AccessPoints[0].LifeCycleState, nil
}

func readAccessPoint(one types.AccessPointDescription) AccessPoint {
	a := AccessPoint{ID: aws.ToString(one.AccessPointId), FileSystem: FileSystem{ID: aws.ToString(one.FileSystemId)}, Path: "/"}
	if one.RootDirectory != nil && one.RootDirectory.Path != nil {
		a.Path = *one.RootDirectory.Path
	}
	if one.PosixUser != nil {
		uid, gid := uint32(aws.ToInt64(one.PosixUser.Uid)), uint32(aws.ToInt64(one.PosixUser.Gid))
		a.UID, a.GID = &uid, &gid
	}
	for _, tag := range one.Tags {
		switch aws.ToString(tag.Key) {
		case ownerTag:
			a.Owner = aws.ToString(tag.Value)
		case nameTag:
			a.Volume = aws.ToString(tag.Value)
		}
	}
	return a
}

// ErrNotOwn reports an access point that was not made for the volume.
var ErrNotOwn = errors.New("was not made for this volume and stays")

// DeleteAccessPoint deletes the access point of a volume, not its data. One without an id is
// looked for by its tags. One that was not made for that volume is an [ErrNotOwn]; one that is not
// there is no error.
func (c *Cloud) DeleteAccessPoint(ctx context.Context, role string, made AccessPoint) error {
	client, err := c.efs(ctx, made.FileSystem, role)
	if err != nil {
		return err
	}
	if made.ID == "" {
		return c.deleteByTags(ctx, client, role, made)
	}
	var gone *types.AccessPointNotFound
	now, _, err := describe(ctx, client, role, made.ID)
	switch {
	case errors.As(err, &gone):
		return nil
	case err != nil:
		return err
	case !now.madeFor(made):
		return fmt.Errorf("access point %s %w", made.ID, ErrNotOwn)
	}
	return deleteOne(ctx, client, role, made.ID)
}

func (a AccessPoint) madeFor(volume AccessPoint) bool {
	return a.Owner != "" && a.Owner == volume.Owner && a.Volume == volume.Volume && a.FileSystem.ID == volume.FileSystem.ID
}

func deleteOne(ctx context.Context, client *efs.Client, role, id string) error {
	var gone *types.AccessPointNotFound
	_, err := client.DeleteAccessPoint(ctx, &efs.DeleteAccessPointInput{AccessPointId: &id})
	if err != nil && !errors.As(err, &gone) {
		return explain("elasticfilesystem:DeleteAccessPoint of "+id, role, err)
	}
	return nil
}

// deleteByTags is for a volume that was never finished: its record has no id yet.
func (c *Cloud) deleteByTags(ctx context.Context, client *efs.Client, role string, made AccessPoint) error {
	pages := efs.NewDescribeAccessPointsPaginator(client, &efs.DescribeAccessPointsInput{FileSystemId: &made.FileSystem.ID})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return explain("elasticfilesystem:DescribeAccessPoints of "+made.FileSystem.ID, role, err)
		}
		for _, one := range page.AccessPoints {
			if found := readAccessPoint(one); found.madeFor(made) {
				if err := deleteOne(ctx, client, role, found.ID); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
