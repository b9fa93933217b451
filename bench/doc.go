// Command bench measures dramnode beside what limits it and what one would use instead, in one run:
//
//   - cref, a plain request and reply over the same UCX (cref/cref.c), directly and through a relay, beside
//     a dramnode that is asked directly and through another one; and ucx_perftest;
//   - redis-server with redis-benchmark;
//   - memcached with a client of ours that pipelines, since memcslap knows neither value lengths nor
//     pipelines, and with memcslap as it is;
//   - Olric, from a module of its own (olric).
//
// Every point (transport, operation, value length, operations under way) is measured by all contenders in
// turn, several rounds of them, in changing order, so that what disturbs the machine disturbs them alike.
// Ratios are taken within a round; a report shows their median and their extremes. Beside speed it tells
// what memory an entry takes in dramnode, redis and memcached.
//
// The result is written as JSON (-json), and from it docs/performance.md and its plots (-docs).
package main
