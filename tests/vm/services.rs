//! The lives of Debian's services under systemd, with SELinux enforcing.

use crate::selinux::harmful_denials;
use support::Host;
use support::lives::live;

/// Lives the life of a service, in which nothing may be denied but what does no harm.
fn live_undenied(service: &str) {
    let host = Host::machine();
    host.line("dmesg --clear").ok();
    live(service, &host);
    assert_eq!(harmful_denials(&host), [""; 0]);
}

#[test]
fn apache2_lives_without_a_denial_that_matters() {
    live_undenied("apache2");
}

#[test]
fn nginx_lives_without_a_denial_that_matters() {
    live_undenied("nginx");
}

#[test]
fn mariadb_lives_without_a_denial_that_matters() {
    live_undenied("mariadb");
}

#[test]
fn redis_lives_without_a_denial_that_matters() {
    live_undenied("redis-server");
}

#[test]
fn postgresql_lives_without_a_denial_that_matters() {
    live_undenied("postgresql@");
}

#[test]
fn memcached_lives_without_a_denial_that_matters() {
    live_undenied("memcached");
}

#[test]
fn cron_lives_without_a_denial_that_matters() {
    live_undenied("cron");
}
