//! PostgreSQL's settings by what they can do to a machine on which a database is restored: tables for
//! [`crate::filter`].
//!
//! What is not in a table is unknown, and kept aside: a new major brings settings that nobody has judged.

use std::collections::BTreeSet;

/// Settings that are kept aside, and why: as the end of "it …".
pub const KEPT_ASIDE: [(&str, &str); 50] = [
    ("allow_system_table_mods", "takes away checks of the database"),
    ("archive_cleanup_command", "runs a program"),
    ("archive_command", "runs a program"),
    ("archive_library", "loads a library"),
    ("archive_mode", "makes the server keep its WAL until a program has taken it"),
    ("bonjour", "announces the server on the network"),
    ("bonjour_name", "announces the server on the network"),
    ("data_directory", "names a place on the lost machine"),
    ("dynamic_library_path", "names a place for libraries"),
    ("event_source", "has no meaning on this system"),
    ("extension_destdir", "names a place for libraries"),
    ("external_pid_file", "names a place on the lost machine"),
    ("fsync", "risks the data"),
    ("full_page_writes", "risks the data"),
    ("hba_file", "names a place on the lost machine"),
    ("ident_file", "names a place on the lost machine"),
    ("ignore_checksum_failure", "risks the data"),
    ("ignore_invalid_pages", "risks the data"),
    ("ignore_system_indexes", "risks the data"),
    ("jit_provider", "loads a library"),
    ("krb_server_keyfile", "names a place on the lost machine"),
    ("lo_compat_privileges", "takes away checks of the database"),
    ("output_plugin_libraries", "loads a library"),
    ("primary_conninfo", "makes the server follow another one"),
    ("primary_slot_name", "makes the server follow another one"),
    ("recovery_end_command", "runs a program"),
    ("recovery_min_apply_delay", "makes the server follow another one"),
    ("recovery_target", "makes the server follow another one"),
    ("recovery_target_action", "makes the server follow another one"),
    ("recovery_target_inclusive", "makes the server follow another one"),
    ("recovery_target_lsn", "makes the server follow another one"),
    ("recovery_target_name", "makes the server follow another one"),
    ("recovery_target_time", "makes the server follow another one"),
    ("recovery_target_timeline", "makes the server follow another one"),
    ("recovery_target_xid", "makes the server follow another one"),
    ("restore_command", "runs a program"),
    ("session_replication_role", "takes away checks of the database"),
    ("ssl_ca_file", "names keys or certificates, and this machine has its own"),
    ("ssl_cert_file", "names keys or certificates, and this machine has its own"),
    ("ssl_crl_dir", "names keys or certificates, and this machine has its own"),
    ("ssl_crl_file", "names keys or certificates, and this machine has its own"),
    ("ssl_dh_params_file", "names keys or certificates, and this machine has its own"),
    ("ssl_key_file", "names keys or certificates, and this machine has its own"),
    ("ssl_passphrase_command", "runs a program"),
    ("ssl_passphrase_command_supports_reload", "belongs to a program"),
    ("sync_replication_slots", "makes the server follow another one"),
    ("synchronized_standby_slots", "makes the server wait for another one"),
    ("synchronous_standby_names", "makes the server wait for another one"),
    ("unix_socket_directories", "names a place on the lost machine"),
    ("zero_damaged_pages", "risks the data"),
];

/// Libraries that only watch or guard, of Debian's packages; each is loaded where the package is installed.
const LIBRARIES: [&str; 10] = [
    "auth_delay",
    "auto_explain",
    "passwordcheck",
    "pg_prewarm",
    "pg_qualstats",
    "pg_stat_kcache",
    "pg_stat_statements",
    "pg_wait_sampling",
    "pgaudit",
    "timescaledb",
];

/// Settings of PostgreSQL 17 that name no program, library, place or other server, and risk no data.
const HARMLESS: &str = "\
    allow_alter_system archive_timeout array_nulls authentication_timeout autovacuum \
    autovacuum_analyze_scale_factor autovacuum_analyze_threshold autovacuum_freeze_max_age \
    autovacuum_max_workers autovacuum_multixact_freeze_max_age autovacuum_naptime \
    autovacuum_vacuum_cost_delay autovacuum_vacuum_cost_limit autovacuum_vacuum_insert_scale_factor \
    autovacuum_vacuum_insert_threshold autovacuum_vacuum_scale_factor autovacuum_vacuum_threshold \
    autovacuum_work_mem backend_flush_after backslash_quote bgwriter_delay bgwriter_flush_after \
    bgwriter_lru_maxpages bgwriter_lru_multiplier bytea_output check_function_bodies \
    checkpoint_completion_target checkpoint_flush_after checkpoint_timeout checkpoint_warning \
    client_connection_check_interval client_encoding client_min_messages cluster_name commit_delay \
    commit_siblings commit_timestamp_buffers compute_query_id constraint_exclusion cpu_index_tuple_cost \
    cpu_operator_cost cpu_tuple_cost createrole_self_grant cursor_tuple_fraction data_sync_retry \
    datestyle deadlock_timeout debug_pretty_print debug_print_parse debug_print_plan \
    debug_print_rewritten default_statistics_target default_table_access_method default_tablespace \
    default_text_search_config default_toast_compression default_transaction_deferrable \
    default_transaction_isolation default_transaction_read_only dynamic_shared_memory_type \
    effective_cache_size effective_io_concurrency enable_async_append enable_bitmapscan \
    enable_gathermerge enable_group_by_reordering enable_hashagg enable_hashjoin enable_incremental_sort \
    enable_indexonlyscan enable_indexscan enable_material enable_memoize enable_mergejoin \
    enable_nestloop enable_parallel_append enable_parallel_hash enable_partition_pruning \
    enable_partitionwise_aggregate enable_partitionwise_join enable_presorted_aggregate enable_seqscan \
    enable_sort enable_tidscan escape_string_warning event_triggers exit_on_error extra_float_digits \
    file_extend_method from_collapse_limit geqo geqo_effort geqo_generations geqo_pool_size geqo_seed \
    geqo_selection_bias geqo_threshold gin_fuzzy_search_limit gin_pending_list_limit \
    gss_accept_delegation hash_mem_multiplier hot_standby hot_standby_feedback huge_page_size huge_pages \
    icu_validation_level idle_in_transaction_session_timeout idle_session_timeout intervalstyle \
    io_combine_limit jit jit_above_cost jit_inline_above_cost jit_optimize_above_cost \
    join_collapse_limit krb_caseins_users lc_messages lc_monetary lc_numeric lc_time listen_addresses \
    lock_timeout log_autovacuum_min_duration log_checkpoints log_connections log_destination \
    log_disconnections log_duration log_error_verbosity log_executor_stats log_file_mode log_hostname \
    log_line_prefix log_lock_waits log_min_duration_sample log_min_duration_statement \
    log_min_error_statement log_min_messages log_parameter_max_length log_parameter_max_length_on_error \
    log_parser_stats log_planner_stats log_recovery_conflict_waits log_replication_commands \
    log_rotation_age log_rotation_size log_startup_progress_interval log_statement \
    log_statement_sample_rate log_statement_stats log_temp_files log_timezone \
    log_transaction_sample_rate log_truncate_on_rotation logging_collector logical_decoding_work_mem \
    maintenance_io_concurrency maintenance_work_mem max_connections max_files_per_process \
    max_locks_per_transaction max_logical_replication_workers max_notify_queue_pages \
    max_parallel_apply_workers_per_subscription max_parallel_maintenance_workers max_parallel_workers \
    max_parallel_workers_per_gather max_pred_locks_per_page max_pred_locks_per_relation \
    max_pred_locks_per_transaction max_prepared_transactions max_replication_slots \
    max_slot_wal_keep_size max_stack_depth max_standby_archive_delay max_standby_streaming_delay \
    max_sync_workers_per_subscription max_wal_senders max_wal_size max_worker_processes \
    min_dynamic_shared_memory min_parallel_index_scan_size min_parallel_table_scan_size min_wal_size \
    multixact_member_buffers multixact_offset_buffers notify_buffers parallel_leader_participation \
    parallel_setup_cost parallel_tuple_cost password_encryption plan_cache_mode port \
    quote_all_identifiers random_page_cost recovery_init_sync_method recovery_prefetch \
    recursive_worktable_factor reserved_connections restart_after_crash row_security scram_iterations \
    search_path seq_page_cost serializable_buffers shared_buffers shared_memory_type ssl ssl_ciphers \
    ssl_ecdh_curve ssl_max_protocol_version ssl_min_protocol_version ssl_prefer_server_ciphers \
    standard_conforming_strings statement_timeout stats_fetch_consistency subtransaction_buffers \
    summarize_wal superuser_reserved_connections synchronize_seqscans synchronous_commit syslog_facility \
    syslog_ident syslog_sequence_numbers syslog_split_messages tcp_keepalives_count tcp_keepalives_idle \
    tcp_keepalives_interval tcp_user_timeout temp_buffers temp_file_limit temp_tablespaces timezone \
    timezone_abbreviations track_activities track_activity_query_size track_commit_timestamp \
    track_counts track_functions track_io_timing track_wal_io_timing transaction_buffers \
    transaction_timeout transform_null_equals unix_socket_group unix_socket_permissions \
    update_process_title vacuum_buffer_usage_limit vacuum_cost_delay vacuum_cost_limit \
    vacuum_cost_page_dirty vacuum_cost_page_hit vacuum_cost_page_miss vacuum_failsafe_age \
    vacuum_freeze_min_age vacuum_freeze_table_age vacuum_multixact_failsafe_age \
    vacuum_multixact_freeze_min_age vacuum_multixact_freeze_table_age wal_buffers wal_compression \
    wal_decode_buffer_size wal_init_zero wal_keep_size wal_level wal_log_hints \
    wal_receiver_create_temp_slot wal_receiver_status_interval wal_receiver_timeout wal_recycle \
    wal_retrieve_retry_interval wal_sender_timeout wal_skip_threshold wal_summary_keep_time \
    wal_sync_method wal_writer_delay wal_writer_flush_after work_mem xmlbinary xmloption";

/// What a setting can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but what it says.
    Harmless,
    /// It names libraries.
    Libraries,
    /// It names the folder of the log, or a file in it.
    LogPlace,
    /// It is kept aside; why.
    KeptAside(&'static str),
}

/// What the setting of this name, in lower case, can do.
pub fn kind(name: &str) -> Kind {
    if let Some((prefix, _)) = name.split_once('.') {
        let is_known = LIBRARIES.contains(&prefix);
        return if is_known {
            Kind::Harmless
        } else {
            Kind::KeptAside("belongs to an extension that is not known here")
        };
    }
    match name {
        "shared_preload_libraries" | "session_preload_libraries" | "local_preload_libraries" => {
            Kind::Libraries
        }
        "log_directory" | "log_filename" => Kind::LogPlace,
        _ if HARMLESS.split_ascii_whitespace().any(|harmless| harmless == name) => Kind::Harmless,
        _ => Kind::KeptAside(
            KEPT_ASIDE
                .iter()
                .find(|(kept, _)| *kept == name)
                .map_or("is not a setting that is known to be harmless", |(_, why)| why),
        ),
    }
}

/// Whether a setting that is kept aside says no more than PostgreSQL does without it.
pub fn is_default(name: &str, value: &str) -> bool {
    let default = match name {
        "archive_mode" | "bonjour" | "lo_compat_privileges" => "off",
        "fsync" | "full_page_writes" => "on",
        "session_replication_role" => "origin",
        "recovery_target_timeline" => "latest",
        "jit_provider" => "llvmjit",
        "dynamic_library_path" => "$libdir",
        _ => return false,
    };
    value == default
}

/// Whether a library may be loaded: known to be harmless, and one of the packages on this machine, of which
/// `installed` has the names.
pub fn is_harmless_library(name: &str, installed: &BTreeSet<String>) -> bool {
    let plain = name.strip_prefix("$libdir/").unwrap_or(name);
    let plain = plain.strip_suffix(".so").unwrap_or(plain);
    LIBRARIES.contains(&plain) && installed.contains(plain)
}

/// Every setting that a table names.
pub fn judged() -> BTreeSet<&'static str> {
    let others = ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"];
    let places = ["log_directory", "log_filename"];
    let kept = KEPT_ASIDE.iter().map(|(name, _)| *name);
    HARMLESS.split_ascii_whitespace().chain(kept).chain(others).chain(places).collect()
}
