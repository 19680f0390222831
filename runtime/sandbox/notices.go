package sandbox

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
)

// noticesFile keeps what the user was told, or was to be told and had no place on a screen that the agent draws.
const noticesFile = "notices.jsonl"

// maxNotices is how long that file may grow, in bytes: an agent has a part in what is in it.
const maxNotices = 1 << 20

// NoticeRecord is one line of a run's notices.
type NoticeRecord struct {
	Time time.Time `json:"time"`
	Notice
}

// NoticesPath returns the file of a run's notices: a NoticeRecord as JSON a line, appended as they come.
func NoticesPath(state, id string) string { return filepath.Join(RunDir(state, id), noticesFile) }

// noticeLog writes the file. It is safe for concurrent use.
type noticeLog struct {
	mu   sync.Mutex
	file *os.File
	size int
}

func openNotices(dir string) (*noticeLog, error) {
	f, err := os.OpenFile(filepath.Join(dir, noticesFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &noticeLog{file: f}, nil
}

// keep appends one notice; what does not fit any more is dropped.
func (l *noticeLog) keep(n Notice) error {
	line, err := json.Marshal(NoticeRecord{time.Now().UTC(), n})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size += len(line) + 1; l.size > maxNotices {
		return nil
	}
	_, err = l.file.Write(append(line, '\n'))
	return err
}

// tell keeps a notice and gives it to the caller. That it cannot be kept is no failure of the run.
func (s *Sandbox) tell(n Notice) {
	if err := s.dir.notices.keep(n); err != nil {
		s.cfg.Log.Warn("keep notice", zap.Error(err))
	}
	s.cfg.Notice(n.Text)
}
