package secretd

import (
	"context"
	"errors"

	"go.uber.org/zap"
)

// Run opens the daemon of cfg and serves it on socket, or on the socket that this
// process inherited, until ctx ends.
func Run(ctx context.Context, cfg Config, socket string) (err error) {
	inherited, err := Inherited()
	if err != nil {
		return err
	}
	d, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	sockets, err := Listen(socket, inherited)
	if err != nil {
		return err
	}
	if cfg.Remote.Address != "" {
		if sockets.Remote, err = cfg.Remote.Listen(d.log); err != nil {
			return errors.Join(err, sockets.Close())
		}
		d.log.Info("serving admins on other hosts", zap.Stringer("address", sockets.Remote.Addr()), zap.Strings("admins", cfg.Remote.Admins))
	}
	d.log.Info("serving", zap.String("socket", socket))
	return d.Serve(ctx, sockets)
}
