package sidecar

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// A Change is a setting with another value than before.
type Change struct{ Key, Before, Now string }

// differences lists what differs between two lists of settings.
func differences(before, now []Choice) (changes []Change) {
	was := map[string]string{}
	for _, c := range before {
		was[c.Key] = c.Value
	}
	for _, c := range now {
		if v, known := was[c.Key]; known && v != c.Value {
			changes = append(changes, Change{c.Key, v, c.Value})
		}
	}
	return changes
}

// A process that takes over after a death has the configuration of its predecessor, whatever a file
// says meanwhile: it has been checked, and a mistake in the file must not cost the connections. It
// lies in a sealed memory file, whose descriptor the successor is told.

// settingsVariable tells a successor the number of that descriptor.
const settingsVariable = "ANTEROOM_SETTINGS"

// settingsFile is what it holds.
type settingsFile struct {
	Config  Config
	Choices []Choice
}

// afterDeath reports whether this process takes over from one that has died.
func afterDeath() bool { return os.Getenv(memoryVariable) != "" && os.Getenv(offerVariable) == "" }

// Succeeds reports whether this process takes over from another, which then has chosen whether
// there is a supervisor.
func Succeeds() bool { return os.Getenv(memoryVariable) != "" }

// LoadOrInherit is Load, but for a process that takes over after a death: that gets what its
// predecessor had loaded.
func LoadOrInherit(flags *pflag.FlagSet, env func(string) string) (Config, error) {
	if afterDeath() {
		if c, err := inheritSettings(); err == nil {
			return c, nil
		}
	}
	c, choices, err := Load(flags, env)
	c.Choices = choices
	return c, err
}

func inheritSettings() (c Config, err error) {
	fd, err := strconv.Atoi(os.Getenv(settingsVariable))
	if err != nil {
		return c, fmt.Errorf("%s: %w", settingsVariable, err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return c, err
	}
	var kept settingsFile
	if err := json.Unmarshal(text, &kept); err != nil {
		return c, fmt.Errorf("the settings of the process before: %w", err)
	}
	kept.Config.Choices = kept.Choices
	return kept.Config, nil
}

// keepSettings notes the configuration for a successor.
func (s *succession) keepSettings(c *Config) error {
	text, err := json.Marshal(settingsFile{*c, c.Choices})
	if err != nil {
		return fmt.Errorf("settings for a successor: %w", err)
	}
	fd, err := unix.MemfdCreate("anteroom-settings", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	s.settings = os.NewFile(uintptr(fd), "settings")
	if _, err := s.settings.Write(text); err != nil {
		return fmt.Errorf("settings for a successor: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("fcntl(F_ADD_SEALS): %w", err)
	}
	return nil
}
