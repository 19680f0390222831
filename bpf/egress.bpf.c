//go:build ignore

/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Sends every outgoing connection of one sandbox to that sandbox's proxy, and remembers where it
 * was going.
 *
 * The programs hang on the sandbox's cgroup, so they see the sockets that were made in it. They are
 * the redirect and not the wall: the wall is a network namespace that has nothing but lo. Whatever
 * is not understood here is refused (return 0, the caller sees EPERM) and counted.
 *
 * One rule about addresses, learnt from sendto(AF_UNSPEC): the attach type alone says how a context
 * is laid out. No program looks at user_family or family.
 */
#include "context.h"
#include "bpf_helpers.h"
#include "bpf_endian.h"

#define REFUSE 0
#define ALLOW 1
#define DNS_PORT bpf_htons(53)
#define MAPPED bpf_htonl(0xffff)

/* An address in IPv6 form (IPv4 as ::ffff:a.b.c.d) and a port in the first two bytes of port; all in
 * network byte order. A zero port means none. */
struct endpoint {
	__u32 addr[4];
	__u32 port;
};

/* Where a socket believes it is talking to: four, when we sent it to an IPv4 listener of ours, six,
 * when we sent it to an IPv6 one. A UDP socket may have both. */
struct origin {
	struct endpoint four;
	struct endpoint six;
};

enum counter {
	REDIRECTED,		/* TCP connections sent to the proxy */
	RESOLVED,		/* connections and datagrams sent to our resolver */
	LOCAL,			/* left alone: the sandbox's own loopback */
	REFUSED_SOCKET,		/* neither TCP nor UDP */
	REFUSED_UDP,		/* UDP to a port other than 53 */
	REFUSED_OTHER,		/* everything else that was refused */
	UNRECORDED,		/* the destination could not be kept */
	DROPPED,		/* packets that no hook above had judged */
	COUNTERS,
};

/* Set before loading. The IPv6 listeners are zero where IPv6 is off; then nothing but IPv6 loopback
 * is allowed. own4 and own6 are the namespace's further addresses, the sandbox's like 127.0.0.1. */
volatile const struct endpoint proxy4, proxy6, dns4, dns6, own4, own6;

/* Source address and port of a connection to the proxy -> where it was meant to go. LRU: an entry
 * is read once, when the proxy accepts, and a full listener holds far fewer than this. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct endpoint);
	__type(value, struct endpoint);
} destinations SEC(".maps");

/* Freed by the kernel with the socket: no leak, no eviction of a live one. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} origins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(enum counter which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		__sync_fetch_and_add(n, 1); /* a program may be preempted by another on its processor */
}

static __always_inline int refuse(enum counter which)
{
	count(which);
	return REFUSE;
}

static __always_inline int same(const struct endpoint *a, const volatile struct endpoint *b)
{
	return a->addr[0] == b->addr[0] && a->addr[1] == b->addr[1] &&
	       a->addr[2] == b->addr[2] && a->addr[3] == b->addr[3];
}

/* Is a the one or the other listener? */
static __always_inline int ours(const struct endpoint *a, const volatile struct endpoint *one,
				const volatile struct endpoint *two)
{
	return (a->port == one->port && same(a, one)) || (a->port == two->port && same(a, two));
}

/* Is a an address of the sandbox itself? connect() to 0.0.0.0 and :: means loopback. */
static __always_inline int local(const struct endpoint *a)
{
	if (same(a, &own4) || same(a, &own6))
		return 1;
	if (a->addr[0] || a->addr[1])
		return 0;
	if (a->addr[2] == MAPPED)
		return !a->addr[3] || (a->addr[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !a->addr[2] && (!a->addr[3] || a->addr[3] == bpf_htonl(1));
}

static __always_inline struct endpoint read4(struct bpf_sock_addr *ctx)
{
	struct endpoint to = { .addr = { 0, 0, MAPPED, ctx->user_ip4 }, .port = ctx->user_port };

	return to;
}

static __always_inline struct endpoint read6(struct bpf_sock_addr *ctx)
{
	struct endpoint to = {
		.addr = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3] },
		.port = ctx->user_port,
	};

	return to;
}

static __always_inline void write4(struct bpf_sock_addr *ctx, const volatile struct endpoint *to)
{
	ctx->user_ip4 = to->addr[3];
	ctx->user_port = to->port;
}

/* The barriers keep clang from folding the stores into a pointer to the middle of the context,
 * which the verifier refuses ("dereference of modified ctx ptr"). */
static __always_inline void write6(struct bpf_sock_addr *ctx, const volatile struct endpoint *to)
{
	ctx->user_ip6[0] = to->addr[0];
	barrier();
	ctx->user_ip6[1] = to->addr[1];
	barrier();
	ctx->user_ip6[2] = to->addr[2];
	barrier();
	ctx->user_ip6[3] = to->addr[3];
	barrier();
	ctx->user_port = to->port;
}

/* What becomes of a connect or a datagram: the listener it is sent to, or one of these. */
enum verdict { REFUSED, STAYS, PROXY, RESOLVER };

static __always_inline enum verdict judge(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	int tcp = ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP;
	int udp = ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP;

	if (!tcp && !udp) {
		count(REFUSED_OTHER);
		return REFUSED;
	}
	if (local(to)) {
		/* The socket may have been elsewhere before (connect to AF_UNSPEC dissolves). */
		bpf_sk_storage_delete(&origins, ctx->sk);
		count(LOCAL);
		return STAYS;
	}
	if (to->port == DNS_PORT)
		return RESOLVER;
	if (tcp)
		return PROXY;
	count(REFUSED_UDP);
	return REFUSED;
}

/* Keeps the destination with the socket. Zero when there is no memory for it: then refuse. */
static __always_inline struct origin *remember(struct bpf_sock_addr *ctx)
{
	struct origin *o = bpf_sk_storage_get(&origins, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!o)
		count(UNRECORDED);
	return o;
}

static __always_inline int send4(struct bpf_sock_addr *ctx)
{
	struct endpoint to = read4(ctx);
	enum verdict v = judge(ctx, &to);
	struct origin *o;

	if (v == REFUSED)
		return REFUSE;
	if (v == STAYS)
		return ALLOW;
	o = remember(ctx);
	if (!o)
		return REFUSE;
	o->four = to;
	write4(ctx, v == PROXY ? &proxy4 : &dns4);
	count(v == PROXY ? REDIRECTED : RESOLVED);
	return ALLOW;
}

/* A mapped destination (::ffff:a.b.c.d) goes to ::1 as well: a socket with IPV6_V6ONLY could not
 * reach ::ffff:127.0.0.1, and a UDP sendto would get ENOTSUPP. */
static __always_inline int send6(struct bpf_sock_addr *ctx)
{
	struct endpoint to = read6(ctx);
	enum verdict v = judge(ctx, &to);
	struct origin *o;

	if (v == REFUSED)
		return REFUSE;
	if (v == STAYS)
		return ALLOW;
	if (!proxy6.port || !dns6.port)
		return refuse(REFUSED_OTHER);
	o = remember(ctx);
	if (!o)
		return REFUSE;
	o->six = to;
	write6(ctx, v == PROXY ? &proxy6 : &dns6);
	count(v == PROXY ? REDIRECTED : RESOLVED);
	return ALLOW;
}

/* cgroup/sock_create, Linux 4.10: socket() of AF_INET and AF_INET6. UDP-Lite, SCTP and raw sockets
 * have connect paths that no connect hook sees, and MPTCP may add subflows, so only TCP and UDP. */
SEC("cgroup/sock_create")
int sock_create(struct bpf_sock *ctx)
{
	if (ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP)
		return ALLOW;
	if (ctx->type == SOCK_DGRAM && ctx->protocol == IPPROTO_UDP)
		return ALLOW;
	return refuse(REFUSED_SOCKET);
}

/* cgroup/connect4, Linux 4.17: connect() and TCP Fast Open, before a route or source port is chosen.
 * Also a UDP connect of an AF_INET6 socket that was given an IPv4 sockaddr. */
SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return send4(ctx);
}

/* cgroup/connect6, Linux 4.17: as connect4; TCP to ::ffff:a.b.c.d comes here only. */
SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return send6(ctx);
}

/* cgroup/sendmsg4, Linux 4.18: unconnected UDP, including AF_UNSPEC and the mapped addresses of an
 * AF_INET6 socket. Port 0 appears only when a connected socket sends with control data (an address
 * with port 0 is EINVAL before the hook): that was judged by connect. An AF_INET6 socket connected to a
 * mapped address sends by way of here as well, with the address that connect4 has rewritten: what it
 * believes to talk to must not be forgotten. */
SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	struct endpoint to = read4(ctx);
	struct bpf_sock *sk = ctx->sk;

	if (!to.port)
		return ALLOW;
	if (sk && sk->state == TCP_ESTABLISHED && ours(&to, &dns4, &dns4))
		return ALLOW;
	return send4(ctx);
}

/* cgroup/sendmsg6, Linux 4.18: as sendmsg4. */
SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	if (!ctx->user_port)
		return ALLOW;
	return send6(ctx);
}

/* Gives the address back that the program asked for, where it is that of one of the two listeners. These
 * hooks must return 1. */
static __always_inline int restore4(struct bpf_sock_addr *ctx, const volatile struct endpoint *one,
				    const volatile struct endpoint *two)
{
	struct endpoint from = read4(ctx);
	struct origin *o;

	if (!ours(&from, one, two))
		return ALLOW;
	o = bpf_sk_storage_get(&origins, ctx->sk, 0, 0);
	if (o && o->four.port)
		write4(ctx, &o->four);
	return ALLOW;
}

/* An AF_INET6 socket sees the answer of our IPv4 resolver as ::ffff:127.x. */
static __always_inline int restore6(struct bpf_sock_addr *ctx, const volatile struct endpoint *one,
				    const volatile struct endpoint *two)
{
	struct endpoint from = read6(ctx);
	struct origin *o;

	if (ours(&from, &dns4, &dns4)) {
		o = bpf_sk_storage_get(&origins, ctx->sk, 0, 0);
		if (o && o->four.port)
			write6(ctx, &o->four);
	} else if (from.port && ours(&from, one, two)) {
		o = bpf_sk_storage_get(&origins, ctx->sk, 0, 0);
		if (o && o->six.port)
			write6(ctx, &o->six);
	}
	return ALLOW;
}

/* cgroup/recvmsg4, Linux 5.2: the source address that recvfrom() reports. */
SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx, &dns4, &dns4);
}

/* cgroup/recvmsg6, Linux 5.2. */
SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx, &dns6, &dns6);
}

/* cgroup/getpeername4, Linux 5.8. */
SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return restore4(ctx, &proxy4, &dns4);
}

/* cgroup/getpeername6, Linux 5.8. */
SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return restore6(ctx, &proxy6, &dns6);
}

/* Puts the destination under the connection's source, or makes sure that nothing is there: a connection
 * straight to the proxy must not inherit the entry of an earlier one from the same port. */
static __always_inline int keep(const struct endpoint *source, const struct endpoint *to)
{
	if (to && to->port && !bpf_map_update_elem(&destinations, source, to, BPF_ANY))
		return ALLOW;
	bpf_map_delete_elem(&destinations, source);
	count(UNRECORDED);
	return ALLOW;
}

static __always_inline struct origin *origin_of(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&origins, sk, 0, 0) : 0;
}

static __always_inline int record4(struct bpf_sock_ops *ctx)
{
	struct endpoint source = {
		.addr = { 0, 0, MAPPED, ctx->local_ip4 },
		.port = bpf_htons(ctx->local_port),
	};
	struct origin *o;

	if (ctx->remote_ip4 != proxy4.addr[3])
		return ALLOW;
	o = origin_of(ctx);
	return keep(&source, o ? &o->four : 0);
}

/* Also for an AF_INET6 socket that went to ::ffff:127.x, the sandbox's own doing: then without record. */
static __always_inline int record6(struct bpf_sock_ops *ctx, __u32 port)
{
	struct endpoint peer = {
		.addr = { ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2], ctx->remote_ip6[3] },
		.port = port,
	};
	struct endpoint source = {
		.addr = { ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3] },
		.port = bpf_htons(ctx->local_port),
	};
	struct origin *o;

	if (ours(&peer, &proxy4, &proxy4))
		return keep(&source, 0);
	if (!ours(&peer, &proxy6, &proxy6))
		return ALLOW;
	o = origin_of(ctx);
	return keep(&source, o ? &o->six : 0);
}

/* sockops, Linux 4.13: TCP_CONNECT_CB comes when the source port is chosen and the SYN is not yet
 * sent, so the entry is there before the proxy can accept. (ACTIVE_ESTABLISHED is too late: with Fast
 * Open the listener may have data by then.) The return value is not used. */
SEC("sockops")
int record(struct bpf_sock_ops *ctx)
{
	__u32 port;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB)
		return ALLOW;
	port = bpf_htons(bpf_ntohl(ctx->remote_port));
	if (ctx->family == AF_INET)
		return port == proxy4.port ? record4(ctx) : ALLOW;
	return record6(ctx, port);
}

/* cgroup_skb/egress, Linux 4.10: every IP packet that a socket of the sandbox sends, with its real
 * next destination (a source route or routing header included). Nothing arrives here that was not
 * judged above; if it does, it goes nowhere. */
SEC("cgroup_skb/egress")
int egress(struct __sk_buff *skb)
{
	struct endpoint to = {};
	long err;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		to.addr[2] = MAPPED;
		err = bpf_skb_load_bytes(skb, 16, &to.addr[3], 4);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		err = bpf_skb_load_bytes(skb, 24, &to.addr, 16);
	} else {
		err = 1;
	}
	if (!err && local(&to))
		return ALLOW;
	return refuse(DROPPED);
}

/* Sections are declared dual so that GPL-only helpers, were one needed, would load. */
char _license[] SEC("license") = "Dual BSD/GPL";
