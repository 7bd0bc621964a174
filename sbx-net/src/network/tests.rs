use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::net::{Ipv4Addr, Ipv6Addr};

fn interface(text: &str) -> Interface {
    match text.parse() {
        Ok(Spec::Interface(interface)) => interface,
        other => panic!("{text}: {other:?}"),
    }
}

fn error(text: &str) -> String {
    text.parse::<Spec>().expect_err(text)
}

#[test]
fn what_the_old_tools_took_is_taken() {
    for text in ["dhcp,source=default", "source=default", "dhcp"] {
        assert_eq!(json!(interface(text)), json!({ "name": "", "source": "default" }), "{text}");
    }
    let text = "address=192.168.122.1/24%192.168.122.255,route=192.168.122.255/24%192.168.1.1,mac=02:00:00:0a:Bb:01";
    assert_eq!(
        json!(interface(text)),
        json!({
            "name": "", "source": "default", "mac": "02:00:00:0a:bb:01",
            "addresses": ["192.168.122.1/24%192.168.122.255"],
            "routes": [{ "to": "192.168.122.0/24", "via": "192.168.1.1" }],
        })
    );
    // 24 bits of IPv4 are a network, 64 of IPv6.
    let text = "source=br0,mtu=1400,address=10.0.0.9,address=2001:212::204:2,route=::/0%2001:212::1";
    let expected = json!(["10.0.0.9/24", "2001:212::204:2/64"]);
    assert_eq!(json!(interface(text))["addresses"], expected);
}

#[test]
fn other_ways_to_a_network_are_taken() {
    assert_eq!("none".parse(), Ok(Spec::None));
    assert_eq!("host".parse(), Ok(Spec::Host));
    assert_eq!("netns=/run/netns/a,b".parse(), Ok(Spec::Namespace("/run/netns/a,b".into())));
    assert_eq!("container=web".parse(), Ok(Spec::Container("web".parse().expect("a name"))));
    let text = "mode=macvlan,source=eth0,address=10.0.0.9/8";
    assert_eq!(interface(text).mode, Mode::Macvlan);
}

#[test]
fn what_does_not_go_together_is_refused_with_its_reason() {
    for (text, why) in [
        ("dhcp,address=10.0.0.1", "dhcp goes with neither"),
        ("address=10.0.0.1,route=10.1.0.0%10.0.0.2,dhcp", "dhcp goes with neither"),
        ("dhcp,dhcp", "dhcp stands there twice"),
        ("source=a,source=a", "source stands there twice"),
        ("mtu=100,mtu=100", "mtu stands there twice"),
        ("route=10.0.0.0/8%10.0.0.1", "route goes with address"),
        ("address=10.0.0.1,route=10.0.0.0/8", "a route is NET[/PREFIX]%GATEWAY"),
        ("address=10.0.0.1,route=10.0.0.0/8%", "bad gateway"),
        ("address=10.0.0.1,route=10.0.0.0/8%::1", "another family"),
        ("address=10.0.0.256", "bad address"),
        ("address=10.0.0.1/33", "bad address"),
        ("address=10.0.0.1/+8", "bad address"),
        ("address=::1/129", "bad address"),
        ("address=::1/64%10.0.0.255", "no broadcast"),
        ("address=10.0.0.1%x", "bad broadcast address"),
        ("mac=ff:ff:ff:ff:ff:ff", "address of a group"),
        ("mac=01:00:00:00:00:01", "address of a group"),
        ("mac=00:00:00:00:00:00", "six bytes"),
        ("mac=02:00:00:00:00", "six bytes"),
        ("mac=2:0:0:0:0:1", "six bytes"),
        ("mtu=67", "an mtu is"),
        ("", "unknown key"),
        ("dhcp=yes", "unknown key"),
        ("source", "unknown key"),
        ("color=red", "unknown key"),
        ("dhcp,", "unknown key"),
        ("source=", "bad name of an interface"),
        ("source=a/b", "bad name of an interface"),
        ("source=..", "bad name of an interface"),
        ("source=0123456789abcdef", "bad name of an interface"),
        ("source=br0,dhcp", "has not the privileges"),
        ("mode=tap", "bad mode"),
        ("mode=macvlan", "source= is missing"),
        ("mode=macvlan,source=default", "is a bridge, no parent"),
        ("mode=ipvlan,source=eth0,mac=02:00:00:00:00:01", "the mac of its parent"),
        ("netns=a", "an absolute path"),
        ("container=", "bad container name"),
    ] {
        let error = error(text);
        assert!(error.starts_with("bad network ") && error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_published_port_is_two_numbers_perhaps_an_address_and_a_protocol() {
    let port = |text: &str| text.parse::<Publish>().map(|publish| json!(publish));
    assert_eq!(port("8080:80"), Ok(json!({ "host": 8080, "port": 80 })));
    assert_eq!(port("0.0.0.0:8080:80/tcp"), Ok(json!({ "host": 8080, "port": 80 })));
    let expected = json!({ "address": "127.0.0.1", "host": 53, "port": 5353, "protocol": "udp" });
    assert_eq!(port("127.0.0.1:53:5353/udp"), Ok(expected));
    assert_eq!(port("[::1]:8080:80"), Ok(json!({ "address": "::1", "host": 8080, "port": 80 })));
    for bad in [
        "",
        "80",
        "80:",
        ":80",
        "0:80",
        "80:0",
        "80:65536",
        "80:80/sctp",
        "a:80:80",
        "::1:80:80",
        "[1.2.3.4]:1:1",
        "80:80/udp/tcp",
    ] {
        assert!(port(bad).is_err(), "{bad}");
    }
}

#[test]
fn egress_is_a_word_or_networks() {
    let networks = "10.0.0.0/8,192.0.2.1/32,2001:db8::/32";
    assert_eq!("10.1.2.3/8,192.0.2.1,2001:db8::/32".parse::<Egress>().map(|e| e.to_string()), Ok(networks.to_owned()));
    for word in ["none", "dns", "all"] {
        assert_eq!(word.parse::<Egress>().map(|egress| egress.to_string()), Ok(word.to_owned()));
    }
    for bad in ["", "some", "10.0.0.0/8,", "10.0.0.0/33"] {
        assert!(bad.parse::<Egress>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "((dhcp|source=|mode=|mac=|mtu=|address=|route=|[0-9./:%,a-f]{0,9}),?){0,6}") {
        let _ = (text.parse::<Spec>(), text.parse::<Publish>(), text.parse::<Egress>());
    }

    #[test]
    fn what_is_read_is_what_was_written(
        v4: u32, v6: u128, prefix in 0u8..=32, long in 0u8..=128, mac: [u8; 6], ports: (u16, u16), mtu in 68u32..9000,
    ) {
        let mac = Mac([mac[0] & 0xfe | 2, mac[1], mac[2], mac[3], mac[4], mac[5]]);
        let addresses = [Address::new(Ipv4Addr::from_bits(v4).into(), prefix), Address::new(Ipv6Addr::from_bits(v6).into(), long)];
        let text = format!("source=br0,mac={mac},mtu={mtu},address={},address={}", addresses[0], addresses[1]);
        let read = interface(&text);
        prop_assert_eq!(&read.mac, &Some(Text(mac)));
        prop_assert_eq!(&read.addresses, &addresses.map(Text));
        let again: Interface = serde_json::from_value(json!(read)).expect("an interface");
        prop_assert_eq!(again, read);
        let publish = Publish { address: None, host: ports.0.max(1), port: ports.1.max(1), protocol: Protocol::Udp };
        prop_assert_eq!(format!("{}:{}/udp", publish.host, publish.port).parse(), Ok(publish));
    }
}
