//! What attacked programs like this one, by CVE: each attack is first made against the same state without our care, by the
//! call that the attacked program made, and reaches what it must not reach; then the real tools do the same work.
//!
//! | CVE | test, or why there is none |
//! | --- | --- |
//! | 2013-6456 | `links_that_root_inside_puts_into_its_file_systems_lead_no_tool_outside` |
//! | 2015-1335, 2019-18837, 2021-30465, 2024-45310 | `a_place_that_is_exchanged_for_a_link_while_it_is_mounted_on_is_never_outside` |
//! | 2019-19921, 2023-27561, 2023-28642, 2025-54867, 2026-41579, 2026-47766 | `a_file_system_that_root_inside_replaces_by_a_link_before_a_start_does_not_reach_the_host` |
//! | 2025-31133, 2025-62161 | `masks_are_of_the_null_device_whatever_lies_in_its_place` |
//! | 2015-1334, 2015-3631, 2019-16884, 2025-52881, 2025-62596 | `what_is_written_to_proc_arrives_whatever_is_mounted_there`, sbx/src/procfs.rs |
//! | 2024-5154, 2024-9341, 2025-24965, 2025-9566 | `links_in_a_private_tree_lead_no_verb_outside` |
//! | 2015-2925 | `a_directory_that_the_host_renames_out_of_a_share_leads_its_guests_nowhere` |
//! | 2015-1331, 2021-44731 | `nothing_is_made_at_a_name_that_others_could_have_taken` |
//! | 2021-41091 | `nobody_else_passes_through_the_directories_of_containers` |
//! | 2016-8659, 2020-5291 | `a_tool_that_is_set_user_id_refuses_whoever_it_would_give_rights_to` |
//! | 2022-31214 | `a_record_of_a_process_that_is_not_in_the_containers_cgroup_is_neither_entered_nor_killed`, `a_record_that_others_could_have_written_is_not_believed`, `a_process_that_got_the_pid_of_one_that_has_ended_is_not_taken_for_it` |
//! | 2022-0811 | `a_document_that_asks_for_a_sysctl_is_refused_whatever_the_value` |
//! | 2020-15257 | `no_socket_of_ours_is_in_the_abstract_name_space` |
//! | 2025-23266 | `no_hook_is_run_and_no_environment_crosses` |
//! | 2020-17368, 2024-32462 | `words_that_look_like_options_or_like_a_shells_are_words` |
//! | 2026-40226 | `settings_beside_or_inside_a_root_are_not_read` |
//! | 2019-5736 | `a_holders_program_cannot_be_written_and_it_is_small`, `a_program_that_enters_a_container_cannot_be_written_there` |
//! | 2021-41133, 2017-5226, 2019-10063 | `a_program_inside_finds_the_calls_that_the_page_names_and_no_others` in hardening.rs |
//! | 2022-0185, 2022-0492 | `neither_namespaces_nor_hierarchies_are_made_inside` in hardening.rs |
//! | 2023-25809 | `an_init_has_the_cgroups_below_its_own_and_a_command_none` in hardening.rs |
//! | 2022-1227 | `no_program_of_the_container_runs_outside_of_it` in hardening.rs |
//! | 2022-27649, 2022-27650, 2022-29162, 2025-27612 | `no_capability_is_inherited_whatever_is_added` in hardening.rs |
//! | 2015-3630, 2018-10892 | `what_changes_the_host_is_not_opened_for_writing` in hardening.rs |
//! | 2018-6764, 2019-14271 | `nothing_of_the_container_is_loaded_before_the_command` in hardening.rs |
//! | 2018-15664 | `a_place_that_is_exchanged_for_a_link_while_it_is_copied_is_never_outside` |
//! | 2019-10144 | `an_executed_command_is_as_confined_as_the_container`, `an_executed_command_is_as_confined_as_a_service` in cases.rs |
//! | 2016-3697, 2017-1000082, 2026-30892 | `a_user_is_the_exact_number_whatever_users_are_called` |
//! | 2022-2995, 2022-36109 | `a_command_is_in_the_groups_of_its_user_and_in_no_other` |
//! | 2022-4318 | `no_variable_adds_a_line_to_passwd` |
//! | 2024-21626 | `nothing_of_the_caller_leaks_into_an_executed_command` in cases.rs, `no_directory_of_the_hosts_is_entered_by_a_descriptor` |
//! | 2016-8649, 2016-9962 | `a_process_that_enters_shows_no_descriptor_of_the_hosts` |
//! | 2016-7545, 2016-10124 | `nothing_inside_types_on_the_callers_terminal` in terminal.rs |
//! | 2015-3627, 2025-52565 | `no_link_inside_is_opened_for_a_terminal` in terminal.rs |
//! | 2021-20199 | `a_published_port_tells_who_came_and_leads_from_wherever` in net.rs |
//! | 2014-8989, 2017-5985, 2022-47952, 2026-39402, 2026-40224 | SECURITY.md: attacks that cannot apply |
//!
//! Without a CVE: names that lead elsewhere, `a_bad_name_is_wrong_usage_in_every_verb` in refusals.rs; words that end a line of a
//! unit, `what_systemd_reads_of_a_unit_is_what_was_written`; what a killed verb leaves, kills.rs.

mod entering;
mod found;
mod places;
mod records;
mod words;

use std::path::PathBuf;
use support::Host;

/// A place of the host's that nothing inside may reach, and what is there.
struct Canary<'a> {
    host: &'a Host,
    path: String,
    before: String,
}

/// All that is in a place, and what is mounted anywhere.
const LOOK: &str = "{ find canary -maxdepth 2 -printf '%p %i %y %m %U %G %s %l %T@ %C@\\n' | sort
    cat canary/f canary/null canary/d/f; cat /proc/self/mountinfo; } 2>/dev/null";

impl<'a> Canary<'a> {
    fn new(host: &'a Host) -> Self {
        let mut canary = Self { host, path: host.path("tmp/canary").display().to_string(), before: String::new() };
        canary.renew();
        canary
    }

    fn renew(&mut self) {
        let make = "rm -rf canary && mkdir -p canary/d && echo untouched | tee canary/f canary/null canary/d/f";
        self.host.bash(make).ok();
        self.before = self.host.bash(LOOK).ok().text();
    }

    /// Asserts that what is done without our care, in mounts of its own, reaches it.
    #[track_caller]
    fn assert_reached(&mut self, script: &str) {
        let all = format!("{LOOK} >before; {script}; {LOOK} >after; ! cmp before after");
        self.host.run(["unshare", "--mount", "--", "bash", "-c", &all], "").ok();
        self.renew();
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        assert_eq!(self.host.bash(LOOK).ok().text(), self.before, "{what}");
    }
}

/// The running document that is kept of a container.
fn state(host: &Host, name: &str) -> PathBuf {
    host.path("runtime").join(name).join("document.json")
}
