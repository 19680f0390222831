package bundle

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// idRange is the number of ids a sandbox has; 65535 and 65534 (nobody) are among them.
const idRange = 1 << 16

// The ids that sandboxes take on the host: above the range of systemd's containers and below its foreign ids
// (systemd's docs/UIDS-GIDS.md), where no account, no subordinate id and no other manager lives.
const (
	firstID = 0x7000_0000 // 1879048192
	slots   = 0x0c00      // 3072 sandboxes of idRange ids each end at 0x7c00_0000
	proxyID = 0x7c00_0000 // + slot: the proxy of the same run; not mapped into any sandbox
)

// IDs are the host's ids for one sandbox. Runs have different ones, so that a broken sentry meets no process and no
// file of another run under its own uid. The zero value is invalid; use NewIDs.
type IDs struct{ slot uint32 }

// NewIDs picks ids by any number, for instance a random one; equal remainders share ids, which costs only the
// separation above.
func NewIDs(n uint32) IDs { return IDs{n%slots + 1} }

// Host is the host's id of an id inside the sandbox.
func (i IDs) Host(inside uint32) uint32 { return firstID + (i.slot-1)*idRange + inside }

// Proxy is the uid and gid for the run's proxy process.
func (i IDs) Proxy() uint32 { return proxyID + i.slot - 1 }

func (i IDs) mapping() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: 0, HostID: i.Host(0), Size: idRange}}
}

// owned is the mapping of an id-mapped mount under which files of the host's id owner belong to the agent and those of
// the agent's number to that owner; all others up to idRange keep their number inside the sandbox.
func (i IDs) owned(owner, agent uint32) []syscall.SysProcIDMap {
	ids := []uint32{owner, agent}
	slices.Sort(ids)
	var out []syscall.SysProcIDMap
	add := func(disk, inside, n uint32) {
		if n > 0 && inside < idRange {
			out = append(out, syscall.SysProcIDMap{ContainerID: int(disk), HostID: int(i.Host(inside)), Size: int(n)})
		}
	}
	swap := map[uint32]uint32{owner: agent, agent: owner}
	from := uint32(0)
	for _, id := range slices.Compact(ids) {
		add(from, from, min(id, idRange)-min(from, idRange))
		add(id, swap[id], 1)
		from = id + 1
	}
	if from < idRange {
		add(from, from, idRange-from)
	}
	return out
}

// layered is owned for the layers of an overlay, which overlayfs itself works on as the host's root: that has to have a
// number on disk too, and takes the last one, which is nobody's by any convention (65535 is (uid_t)-1 in 16 bits).
func (i IDs) layered(owner, agent uint32) []syscall.SysProcIDMap {
	last := int(i.Host(idRange - 1))
	var out []syscall.SysProcIDMap
	for _, m := range i.owned(owner, agent) {
		if m.HostID <= last && last < m.HostID+m.Size {
			out = append(out, syscall.SysProcIDMap{ContainerID: m.ContainerID + last - m.HostID, HostID: 0, Size: 1})
			m.Size--
		}
		if m.Size > 0 {
			out = append(out, m)
		}
	}
	return out
}

// userNS returns a user namespace with the given mappings, which no process lives in: a child is stopped at its
// execve and killed there, so that not one instruction of it runs. The caller's thread must be locked (ptrace).
func userNS(uids, gids []syscall.SysProcIDMap) (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess("/proc/self/exe", []string{"superserve-userns"}, &os.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: uids,
			GidMappings: gids,
			Ptrace:      true,
			Pdeathsig:   syscall.SIGKILL,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", p.Pid))
	p.Kill()
	// A traced child reports its stop before its death; Wait would return at the first.
	var ws syscall.WaitStatus
	for {
		if _, werr := syscall.Wait4(p.Pid, &ws, 0, nil); werr == syscall.EINTR || werr == nil && ws.Stopped() {
			continue
		}
		break
	}
	p.Release()
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	return f, nil
}
