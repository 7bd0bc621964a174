//! Addresses: of the network and of the hardware, as they are written.

use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of the prefix in bits.
    pub prefix: u8,
    /// The broadcast address, if it is not the last one of the network.
    pub broadcast: Option<Ipv4Addr>,
}

impl Address {
    /// One without a broadcast address of its own.
    pub const fn new(ip: IpAddr, prefix: u8) -> Self {
        Self { ip, prefix, broadcast: None }
    }

    /// An address alone.
    pub const fn host(ip: IpAddr) -> Self {
        Self::new(ip, Self::bits(ip))
    }

    /// How many bits such an address has.
    pub const fn bits(ip: IpAddr) -> u8 {
        if ip.is_ipv6() { 128 } else { 32 }
    }

    /// A network, of which an address is given. `length` is that of a prefix which is not.
    pub fn network(text: &str, length: fn(IpAddr) -> u8) -> Result<Self, String> {
        let address = Self::parse(text, length)?;
        Ok(Self::new(address.first(), address.prefix))
    }

    /// The length of a prefix that is not given.
    pub const fn usual(ip: IpAddr) -> u8 {
        if ip.is_ipv6() { 64 } else { 24 }
    }

    fn parse(text: &str, length: fn(IpAddr) -> u8) -> Result<Self, String> {
        let bad = || format!("bad address {text:?}");
        let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let prefix = match prefix {
            Some(prefix) => number(prefix, 0..=Self::bits(ip).into()).ok_or_else(bad)? as u8,
            None => length(ip),
        };
        Ok(Self::new(ip, prefix))
    }

    /// The network's first address.
    pub fn first(self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(
                ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0),
            )),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(
                ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0),
            )),
        }
    }

    /// Whether an address is of this network.
    pub fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv6() == self.ip.is_ipv6() && Self::new(ip, self.prefix).first() == self.first()
    }

    /// Whether two networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.ip) || other.contains(self.ip)
    }

    /// The broadcast address of an IPv4 network that has one (RFC 3021).
    pub fn broadcast(&self) -> Option<Ipv4Addr> {
        let IpAddr::V4(ip) = self.ip else { return None };
        let last = Ipv4Addr::from_bits(ip.to_bits() | u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0));
        self.broadcast.or_else(|| (self.prefix < 31).then_some(last))
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, broadcast) = text.split_once('%').map_or((text, None), |(text, last)| (text, Some(last)));
        let mut address = Self::parse(address, Self::usual)?;
        if let Some(broadcast) = broadcast {
            let broadcast = broadcast.parse().map_err(|_| format!("bad broadcast address {broadcast:?}"))?;
            if address.ip.is_ipv6() {
                return Err(format!("bad address {text:?}: IPv6 has no broadcast"));
            }
            address.broadcast = Some(broadcast);
        }
        Ok(address)
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)?;
        self.broadcast.map_or(Ok(()), |broadcast| write!(f, "%{broadcast}"))
    }
}

/// A hardware address of one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Vec<u8> = text
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2 && !byte.starts_with('+')))
            .collect::<Option<_>>()
            .unwrap_or_default();
        match <[u8; 6]>::try_from(bytes) {
            Ok(bytes) if bytes[0] & 1 != 0 => Err(format!("bad mac {text:?}: it is the address of a group")),
            Ok(bytes) if bytes != [0; 6] => Ok(Self(bytes)),
            _ => Err(format!("bad mac {text:?}: six bytes, as 02:00:00:00:00:01")),
        }
    }
}

impl Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

/// A number in plain digits.
pub fn number(text: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && range.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        let network = Address::network("10.83.255.7/16", Address::bits).expect("a network");
        assert_eq!(network.to_string(), "10.83.0.0/16");
        assert!(
            network.contains("10.83.9.9".parse().expect("ip")) && !network.contains("10.84.0.1".parse().expect("ip"))
        );
        let all = Address::network("10.0.0.1/0", Address::bits).expect("all");
        assert_eq!(all.to_string(), "0.0.0.0/0");
        assert!(all.contains("255.0.0.1".parse().expect("ip")) && !all.contains("::1".parse().expect("ip")));
    }
}
