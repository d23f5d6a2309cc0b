package harness

import (
	"context"
	"errors"
	"fmt"
)

// replicaPrefix begins the names of the roles of added replicas; their number follows.
const replicaPrefix = webhookRole + "-"

// Replica is one process of the webhook's.
type Replica struct {
	env  *Env
	role *role
}

// StartWebhook starts the webhook's first replica again, after StopWebhook or KillWebhook, and returns when it is ready.
func (e *Env) StartWebhook(ctx context.Context) error { return e.startRole(ctx, webhookRole) }

// StopWebhook ends every replica of the webhook, as a Deployment without replicas would. Added ones do not come back.
func (e *Env) StopWebhook() error { return e.eachReplica((*Replica).Stop) }

// KillWebhook ends every replica of the webhook by force, as if their nodes were gone. Added ones do not come back.
func (e *Env) KillWebhook() error { return e.eachReplica((*Replica).Kill) }

func (e *Env) eachReplica(do func(*Replica) error) error {
	var errs []error
	for _, replica := range e.Webhooks() {
		errs = append(errs, do(replica))
	}
	return errors.Join(errs...)
}

// Webhooks returns the replicas of the webhook that run, the first one first. One and the same process is always one and the same Replica.
func (e *Env) Webhooks() []*Replica {
	var running []*Replica
	for _, replica := range e.replicas {
		if replica.role.process != nil {
			running = append(running, replica)
		}
	}
	return running
}

// AddWebhook starts one more replica of the webhook, with the configuration that the first one has now, and returns when it is ready and has its share of
// the requests.
func (e *Env) AddWebhook(ctx context.Context) (*Replica, error) {
	free, err := choosePorts(ctx, 3)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s%d", replicaPrefix, len(e.replicas)+1)
	first := e.roles[webhookRole]
	c := *first.config
	c.Webhook.Address, c.HealthAddress, c.MetricsAddress = free.address(0), free.address(1), free.address(2)
	c.Webhook.AuditLog.Path = e.auditLog(name)
	added := &role{name: name, args: first.args, config: &c, original: &c, account: first.account, turns: first.turns}
	replica := &Replica{e, added}
	e.roles[name], e.replicas = added, append(e.replicas, replica)
	free.release()
	return replica, e.startRole(ctx, name)
}

// Stop ends the replica politely, if it runs.
func (r *Replica) Stop() error { return r.role.stop() }

// Kill ends the replica by force, if it runs.
func (r *Replica) Kill() error { return r.role.kill() }

// Suspend stops the replica where it is: connections to it are taken, and nobody answers until it is resumed.
func (r *Replica) Suspend() (resume func() error, err error) {
	if r.role.process == nil {
		return nil, fmt.Errorf("%s does not run", r.role.title())
	}
	return suspend(r.role.process.command.Process.Pid)
}

// Metrics returns the address at which the replica serves /metrics.
func (r *Replica) Metrics() string { return r.env.Metrics(r.role.name) }
