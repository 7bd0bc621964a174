//! What an administrator does with a container of one of Debian's services, from create to delete: told once, for each
//! host that the tests have.

use crate::{Host, skip};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

/// How long what a service does on its own time may take: a reload, a job of cron's.
const SOON: Duration = Duration::from_secs(30);

/// A service, and how one sees that it does its work. Scripts run inside; `VERSION` is PostgreSQL's.
struct Life {
    unit: &'static str,
    /// What its unit asks for in vain.
    switched_off: &'static [&'static str],
    /// A use of it by its own client, and what that prints.
    first: (&'static str, &'static str),
    /// A change of its configuration, a use that shows it, and what that prints. None: it cannot reload.
    reload: Option<(&'static str, &'static str, &'static str)>,
    /// What it still knows after a restart.
    kept: (&'static str, &'static str),
}

const PAGE: (&str, &str) = (
    r"echo tea >/var/www/html/index.html
          exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && tail -n 1 <&3",
    "tea",
);

const SAME_PAGE: (&str, &str) =
    (r"exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && tail -n 1 <&3", "tea");

const LIVES: [Life; 7] = [
    Life {
        unit: "apache2.service",
        switched_off: &["PrivateTmp"],
        first: PAGE,
        reload: Some((
            "echo 'Redirect /old http://new.example/' >/etc/apache2/conf-enabled/new.conf",
            r"exec 3<>/dev/tcp/127.0.0.1/80 && printf 'GET /old HTTP/1.0\r\n\r\n' >&3 && grep -o 'Location: [a-z.:/]*' <&3",
            "Location: http://new.example/",
        )),
        kept: SAME_PAGE,
    },
    Life {
        unit: "nginx.service",
        switched_off: &[],
        first: PAGE,
        reload: Some((
            "echo 'server { listen 81; return 200 reloaded; }' >/etc/nginx/conf.d/new.conf",
            r"exec 3<>/dev/tcp/127.0.0.1/81 && printf 'GET / HTTP/1.0\r\n\r\n' >&3 && tail -n 1 <&3",
            "reloaded",
        )),
        kept: SAME_PAGE,
    },
    Life {
        unit: "mariadb.service",
        switched_off: &["ProtectSystem", "ProtectHome", "ProtectControlGroups"],
        first: (
            r#"mariadb -NBe "create database shop; create table shop.goods (name text);
                         insert into shop.goods values ('tea'); select name from shop.goods""#,
            "tea",
        ),
        reload: None,
        kept: ("mariadb -NBe 'select name from shop.goods'", "tea"),
    },
    Life {
        unit: "redis-server.service",
        switched_off: &[
            "PrivateTmp",
            "PrivateDevices",
            "PrivateUsers",
            "ProtectSystem",
            "ProtectHome",
            "ProtectHostname",
            "ProtectClock",
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "ProtectKernelLogs",
            "ProtectControlGroups",
            "ProtectProc",
            "ReadWritePaths",
            "ExecPaths",
            "NoExecPaths",
            "ReadWriteDirectories",
            "capset(2)",
        ],
        first: ("redis-cli set goods tea", "OK"),
        reload: None,
        kept: ("redis-cli get goods", "tea"),
    },
    Life {
        unit: "postgresql@VERSION-main.service",
        switched_off: &[],
        first: (
            r#"runuser -u postgres -- psql -qtA -c "create table goods as select 'tea' as name" -c "select name from goods""#,
            "tea",
        ),
        reload: Some((
            "echo \"work_mem = '5MB'\" >>/etc/postgresql/VERSION/main/postgresql.conf",
            "runuser -u postgres -- psql -qtA -c 'show work_mem'",
            "5MB",
        )),
        kept: ("runuser -u postgres -- psql -qtA -c 'select name from goods'", "tea"),
    },
    Life {
        unit: "memcached.service",
        switched_off: &[
            "PrivateTmp",
            "PrivateDevices",
            "ProtectSystem",
            "ProtectKernelTunables",
            "ProtectKernelModules",
            "ProtectControlGroups",
        ],
        first: (
            r"exec 3<>/dev/tcp/127.0.0.1/11211 && printf 'set goods 0 0 3\r\ntea\r\nget goods\r\nquit\r\n' >&3 &&
          tr -d '\r' <&3",
            "STORED\nVALUE goods 0 3\ntea\nEND",
        ),
        reload: None,
        // It is no more than memory.
        kept: (r"exec 3<>/dev/tcp/127.0.0.1/11211 && printf 'get goods\r\nquit\r\n' >&3 && tr -d '\r' <&3", "END"),
    },
    Life {
        unit: "cron.service",
        switched_off: &[],
        first: (
            "rm -f /run/crond.reboot && echo '@reboot echo tea >/srv/goods' | crontab - && crontab -l",
            "@reboot echo tea >/srv/goods",
        ),
        reload: None,
        kept: ("cat /srv/goods", "tea"),
    },
];

/// Lives the life of a container of `service` on `host`.
#[track_caller]
pub fn live(service: &str, host: &Host) {
    let life = LIVES.iter().find(|life| life.unit.starts_with(service)).expect(service);
    life.live(host);
}

impl Life {
    #[track_caller]
    fn live(&self, host: &Host) {
        let Some(version) = self.version() else {
            return skip(&format!("{} is not installed", self.unit));
        };
        let here = |text: &str| text.replace("VERSION", &version);
        let (unit, before, name) = (here(self.unit), host.snapshot(), host.name("life"));

        let read = host.line(&format!("sbx-unit read --name {name} {unit}")).ok().json();
        let switched_off = &read["sbx"]["unit"]["switchedOff"][&unit];
        assert_eq!(switched_off.as_array().map_or(&[][..], Vec::as_slice), self.switched_off, "{unit}");
        host.service(&format!("create -C -u {unit} {name}")).ok();
        host.service(&format!("start {name}")).ok();

        let (uses, answer) = self.first;
        until(host, &name, &here(uses), answer);
        if let Some((change, uses, answer)) = self.reload {
            host.inside(&name, &here(change)).ok();
            host.service(&format!("reload {name}")).ok();
            until(host, &name, &here(uses), answer);
        } else {
            let refused = host.service(&format!("reload {name}")).assert_code(1);
            assert!(refused.stderr.contains(&unit), "{refused}");
        }

        host.inside(&name, &format!("systemctl restart {unit}")).ok();
        let (uses, answer) = self.kept;
        until(host, &name, &here(uses), answer);

        host.service(&format!("stop {name}")).ok();
        host.service(&format!("delete {name}")).ok();
        host.assert_as(&before, "delete");
    }

    /// The version of what is installed here, if it is: PostgreSQL's is in its unit's name.
    fn version(&self) -> Option<String> {
        let file = self.unit.replace("VERSION-main", "");
        Path::new("/lib/systemd/system").join(file).exists().then_some(())?;
        let clusters = fs::read_dir("/etc/postgresql").into_iter().flatten().flatten();
        Some(clusters.map(|entry| entry.file_name().to_string_lossy().into_owned()).max().unwrap_or_default())
    }
}

/// Runs a script inside until it succeeds and prints `answer`.
#[track_caller]
fn until(host: &Host, name: &str, script: &str, answer: &str) {
    let deadline = Instant::now() + SOON;
    loop {
        let outcome = host.inside(name, script);
        if outcome.code == 0 && outcome.text() == answer {
            return;
        }
        assert!(Instant::now() < deadline, "{outcome}\n  not: {answer}");
        thread::sleep(Duration::from_millis(200));
    }
}
