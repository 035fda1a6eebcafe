"""
The fifty faults that the project must stand (reliability list, section "Tests the project should pass"), and where each is tested.

A row names the tests that hold it, as file::test below tests/, or a benchmark; where the project does otherwise than the row asks, or
nothing tests a part of it, `note` says what and why. `test_rows.py` checks that every row is there and every test exists.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One fault."""

    number: int
    what: str
    tests: tuple[str, ...]
    note: str = ""


ROWS = (
    Row(
        1,
        "SIGKILL in each stage",
        (
            "retrain/test_resume.py::test_a_killed_run_ends_with_the_bits_of_the_undisturbed",
            "retrain/test_photos.py::test_a_killed_run_goes_on_bit_for_bit",
            "retrain/test_photos.py::test_a_run_killed_while_recalibrating_goes_on_bit_for_bit",
            "search_supernet/test_stage.py::test_a_killed_search_ends_with_the_bits_of_the_undisturbed",
            "profile_latency/test_job.py::test_an_interrupted_profile_goes_on_and_ends_as_the_undisturbed_one",
            "generate_data/test_stage.py::test_a_killed_run_is_made_good_by_the_next",
            "faults/test_kills.py::test_whatever_is_killed_the_rest_ends_and_the_next_run_goes_on",
            "benchmarks/soak.py",
        ),
        "Twenty random kills over all stages are the soak's; evaluate, derive_genotype and tabulate keep no state between runs, so only it "
        "kills them.",
    ),
    Row(
        2,
        "SIGKILL inside a save",
        (
            "training/test_checkpoints.py::test_a_kill_while_saving_leaves_a_whole_checkpoint",
            "harness/test_files.py::test_a_kill_while_writing_leaves_a_whole_file",
        ),
    ),
    Row(
        3,
        "SIGKILL of dvc alone",
        (
            "pipeline/test_faults.py::test_a_killed_dvc_takes_the_trainer_along_and_the_next_goes_on",
            "faults/test_kills.py::test_whatever_is_killed_the_rest_ends_and_the_next_run_goes_on",
            "harness/test_process.py::test_a_child_of_dvc_dies_with_it",
            "harness/test_process.py::test_a_killed_run_frees_its_output",
        ),
    ),
    Row(
        4,
        "SIGTERM and Ctrl-C",
        (
            "retrain/test_resume.py::test_sigterm_ends_a_run_at_once_and_keeps_its_checkpoints",
            "retrain/test_resume.py::test_ctrl_c_while_starting_shows_no_traceback",
            "pipeline/test_faults.py::test_ctrl_c_stops_with_one_message_and_keeps_what_was_complete",
            "harness/test_process.py::test_a_signal_ends_the_command_after_its_clean_up",
            "app/test_entry.py::test_a_signal_ends_in_one_message",
            "faults/test_kills.py::test_whatever_is_killed_the_rest_ends_and_the_next_run_goes_on",
        ),
        "The step is dropped, and with it the epoch: checkpoints are written at the end of each.",
    ),
    Row(
        5,
        "resume within an epoch and at its edge",
        (
            "retrain/test_resume.py::test_a_resumed_run_is_the_undisturbed_one",
            "faults/test_machine.py::test_a_run_stopped_within_an_epoch_ends_the_same_with_one_thread_and_with_two",
            "retrain/test_photos.py::test_a_killed_run_goes_on_bit_for_bit",
            "data/test_photo_loader.py::test_the_epoch_follows_the_generators",
        ),
        "There are no DataLoader workers: splits lie in memory, and threads that decode photos draw nothing.",
    ),
    Row(
        6,
        "a piece of the state is missing",
        (
            "retrain/test_resume.py::test_a_missing_piece_is_refused_by_its_name",
            "retrain/test_photos.py::test_without_any_piece_of_the_state_the_result_differs",
            "search_supernet/test_stage.py::test_a_checkpoint_without_a_piece_is_refused",
            "training/test_architecture.py::test_a_saved_architecture_comes_back",
        ),
    ),
    Row(
        7,
        "every piece of the state is needed",
        (
            "retrain/test_resume.py::test_without_any_piece_of_the_state_the_result_differs",
            "retrain/test_resume.py::test_every_saved_piece_is_one_that_the_tests_leave_out",
            "retrain/test_photos.py::test_without_any_piece_of_the_state_the_result_differs",
        ),
        "No state of torch's, Python's or NumPy's global generators and no moving average of weights is saved: nothing uses them.",
    ),
    Row(
        8,
        "the same run in two processes",
        (
            "faults/test_machine.py::test_another_language_zone_umask_home_and_path_change_no_bit",
            "faults/test_machine.py::test_checkpoints_of_another_number_of_threads_are_not_taken_up",
            "retrain/test_stage.py::test_the_seed_alone_decides_the_weights",
            "data/test_scenes.py::test_files_are_byte_identical_on_one_core_or_two",
            "profile_latency/test_stage.py::test_the_same_parameters_give_the_same_bytes",
        ),
        "With another fingerprint a run begins anew rather than refuses; there is no option to take the old checkpoints up.",
    ),
    Row(
        9,
        "a truncated checkpoint",
        (
            "training/test_checkpoints.py::test_truncated_tensors_yield_to_the_older_checkpoint",
            "training/test_checkpoints.py::test_a_truncated_json_yields_to_the_older_checkpoint",
            "training/test_checkpoints.py::test_when_all_are_damaged_the_error_names_each",
            "retrain/test_resume.py::test_a_damaged_checkpoint_costs_an_epoch_and_no_bit",
        ),
    ),
    Row(
        10,
        "a flipped bit in checkpoint, safetensors, latency table, Parquet",
        (
            "faults/test_bit_flips.py::test_scenes",
            "faults/test_bit_flips.py::test_photos",
            "faults/test_bit_flips.py::test_the_latency_profile",
            "faults/test_bit_flips.py::test_what_training_writes",
            "faults/test_bit_flips.py::test_a_checkpoint",
            "schema/test_parquet.py::test_a_flipped_bit_is_corrupt_wherever_it_falls",
            "training/test_checkpoints.py::test_a_flipped_bit_yields_to_the_older_checkpoint",
        ),
        "Small JSON records (genotypes, architectures) carry no digest: `dcnas verify` and the audit hold them against dvc.lock.",
    ),
    Row(
        11,
        "a corrupted object in DVC's cache",
        (
            "faults/test_verify.py::test_a_corrupted_cache_object_with_its_mode_kept_is_found",
            "faults/test_verify.py::test_a_corrupted_listing_of_a_folder_is_found",
            "faults/test_verify.py::test_the_remedy_for_a_corrupted_object_works",
            "faults/test_bit_flips.py::test_what_training_writes",
        ),
        "A stage checks the digests that its inputs carry themselves, not those of dvc.lock, which it does not know.",
    ),
    Row(
        12,
        "a malicious pickle",
        (
            "training/test_checkpoints.py::test_a_malicious_file_is_refused_and_never_run",
            "training/test_checkpoints.py::test_no_code_reads_or_writes_pickles",
            "faults/test_guards.py::test_no_file_is_run_as_code",
        ),
    ),
    Row(
        13,
        "abuse of safetensors",
        (
            "training/test_checkpoints.py::test_a_file_that_is_no_safetensors_is_corrupt",
            "training/test_checkpoints.py::test_weights_that_are_not_finite_are_never_read",
            "evaluate/test_stage.py::test_weights_of_another_run_are_refused",
        ),
    ),
    Row(
        14,
        "a loss that is not finite",
        (
            "retrain/test_stage.py::test_a_nan_names_the_last_good_checkpoint",
            "retrain/test_stage.py::test_a_rate_that_explodes_stops_at_its_epoch_and_batch",
            "retrain/test_stage.py::test_a_validation_loss_that_is_not_finite_stops",
            "retrain/test_stage.py::test_an_overflow_in_the_optimizer_is_a_numerical_failure",
            "retrain/test_photos.py::test_a_loss_that_is_not_finite_stops_the_run",
            "search_supernet/test_stage.py::test_a_search_that_diverges_says_where",
            "training/test_checkpoints.py::test_weights_that_are_not_finite_are_never_written",
        ),
        "No step is skipped: the first such loss stops the run (exit 5), and the next one goes on from the last checkpoint.",
    ),
    Row(
        15,
        "a full disk",
        (
            "training/test_checkpoints.py::test_a_full_disk_keeps_the_old_checkpoint",
            "schema/test_parquet.py::test_a_full_disk_keeps_the_old_table",
            "harness/test_files.py::test_a_full_disk_keeps_the_old_file",
            "faults/test_machine.py::test_a_figure_that_does_not_fit_keeps_the_old_one",
            "generate_data/test_stage.py::test_a_full_disk_keeps_the_old_scenes",
            "pipeline/test_faults.py::test_a_full_disk_is_named_and_leaves_nothing",
            "faults/test_kills.py::test_a_disk_that_fills_up_during_the_commit_loses_nothing",
        ),
        "On a tmpfs; where mounting is not allowed these skip, and test_files fakes the errors.",
    ),
    Row(
        16,
        "a read-only output folder",
        (
            "retrain/test_stage.py::test_a_read_only_folder_is_found_before_the_training",
            "generate_data/test_stage.py::test_a_read_only_folder_ends_before_the_work",
            "pipeline/test_faults.py::test_a_read_only_results_folder_is_refused_before_work",
            "harness/test_files.py::test_a_read_only_folder_is_found_before_the_work",
        ),
    ),
    Row(
        17,
        "two dvc at once",
        ("faults/test_kills.py::test_whatever_is_killed_the_rest_ends_and_the_next_run_goes_on",),
    ),
    Row(
        18,
        "two direct stage commands",
        (
            "generate_data/test_stage.py::test_a_second_run_of_the_same_output_is_refused",
            "retrain/test_stage.py::test_a_second_run_beside_it_is_refused",
            "harness/test_process.py::test_a_second_run_of_the_same_output_is_refused_by_pid",
        ),
    ),
    Row(
        19,
        "clocks that are wrong",
        (
            "faults/test_kills.py::test_a_clock_that_is_set_back_changes_nothing",
            "faults/test_kills.py::test_times_of_files_make_nothing_stale",
            "faults/test_guards.py::test_no_duration_is_of_the_wall_clock",
            "pipeline/test_audit.py::test_touched_files_still_hold",
        ),
        "The clock is set back for Python's time.time in dvc and stages; the machine's own is not touched.",
    ),
    Row(
        20,
        "an output edited with its time and size kept",
        ("faults/test_verify.py::test_an_output_edited_with_size_and_time_kept_is_found",),
    ),
    Row(
        21,
        "no GPU, no driver",
        (
            "training/test_execution.py::test_a_machine_without_cuda",
            "retrain/test_stage.py::test_cuda_that_is_not_there_is_refused_before_the_data",
            "pipeline/test_bad_input.py::test_a_missing_device_is_named_before_data_are_read",
            "latency/test_cuda.py::test_a_device_that_is_not_there_ends_the_work",
        ),
    ),
    Row(
        22,
        "NVML missing or partly supported",
        (
            "latency/test_card.py::test_without_nvml_the_card_says_so",
            "latency/test_card.py::test_a_call_that_nvml_refuses_costs_its_own_fields_alone",
            "latency/test_card.py::test_a_lost_gpu_ends_the_work",
            "latency/test_watch.py::test_a_device_without_nvml_is_watched_in_vain_but_in_peace",
            "latency/test_watch.py::test_a_gpu_lost_midway_ends_the_work",
            "latency/test_gate.py::test_a_gpu_that_tells_nothing_passes_and_is_not_trusted",
        ),
        "A profile of a GPU without NVML is written and is not trusted, as the row asks.",
    ),
    Row(
        23,
        "a throttled GPU",
        (
            "latency/test_gate.py::test_a_throttled_gpu_closes_the_gate",
            "latency/test_gate.py::test_a_slowdown_between_two_looks_closes_the_gate",
            "latency/test_gate.py::test_a_wandering_clock_closes_the_gate",
            "latency/test_watch.py::test_throttling_between_two_polls_is_seen_by_the_counters",
            "latency/test_watch.py::test_an_unknown_bit_is_recorded_and_warned_of_once",
        ),
    ),
    Row(
        24,
        "a shared GPU",
        (
            "latency/test_gate.py::test_other_processes_on_the_gpu_close_the_gate",
            "latency/test_gate.py::test_where_processes_are_hidden_memory_tells_of_others",
            "latency/test_watch.py::test_a_process_that_appears_midway_is_seen",
            "latency/test_watch.py::test_strangers_are_counted_before_our_context",
        ),
    ),
    Row(
        25,
        "a noisy neighbour on the CPU",
        (
            "latency/test_gate.py::test_other_programs_close_the_gate",
            "latency/test_bystanders.py::test_the_share_is_what_others_took_of_all_processors",
            "latency/test_slowness.py::test_slow_phases_of_the_host_leave_no_subject_slower_than_another",
            "latency/test_call.py::test_a_disturbed_run_says_why",
            "benchmarks/levelling.py",
        ),
        "No test burns a core beside a real profile: such a test would be as loud for the other tests; the disturbance is simulated.",
    ),
    Row(
        26,
        "A/A: one thing under two names",
        (
            "latency/test_estimates.py::test_no_subject_is_measured_in_quieter_conditions_than_another",
            "latency/test_timers.py::test_torchs_own_timer_agrees",
            "latency/test_samples.py::test_the_interval_covers_the_truth_where_samples_of_a_round_are_alike",
        ),
        "On a simulated device, whose truth is known; no test on a shared machine can promise 2 %.",
    ),
    Row(
        27,
        "slow drift",
        (
            "latency/test_gate.py::test_drift_compares_the_first_third_with_the_last",
            "latency/test_gate.py::test_getting_faster_is_drift_too",
            "latency/test_gate.py::test_rejected_samples_tell_no_drift",
        ),
    ),
    Row(
        28,
        "latencies of blocks that do not add up",
        (
            "latency/test_predictor.py::test_the_calibration_finds_scale_and_overhead_of_each_kind",
            "latency/test_simulated_profile.py::test_nets_of_each_kind_are_predicted_within_half_a_per_cent",
            "latency/test_simulated_profile.py::test_a_runtime_that_times_parts_alone_is_calibrated",
            "latency/test_gate.py::test_the_gate_closes_for_what_disturbed_the_device",
            "profile_latency/test_stage.py::test_a_closed_gate_exits_3_and_writes_nothing",
        ),
    ),
    Row(
        29,
        "a latency table of another machine or setting",
        (
            "latency/test_files.py::test_a_profile_of_another_setting_is_refused",
            "latency/test_files.py::test_every_difference_is_named_at_once",
            "latency/test_identity.py::test_the_file_of_another_machine_is_rewritten",
            "profile_latency/test_stage.py::test_the_file_of_another_machine_is_refused_before_measuring",
        ),
    ),
    Row(
        30,
        "holes and nonsense in a latency table",
        (
            "latency/test_files.py::test_an_impossible_latency_is_refused_with_its_row",
            "latency/test_files.py::test_an_entry_that_makes_no_sense_is_refused_with_its_row",
            "latency/test_files.py::test_a_repeated_entry_is_refused",
            "latency/test_files.py::test_a_missing_entry_is_noticed",
            "latency/test_table.py::test_a_missing_block_is_named_with_the_remedy",
        ),
    ),
    Row(
        31,
        "images in gray, with alpha, palette, one bit, CMYK",
        (
            "data/test_photo_files.py::test_every_kind_becomes_rgb",
            "data/test_photo_files.py::test_what_shines_through_is_white",
        ),
        "Rows 31 to 36 hold for the photographs that generate_data reads: there is no command that predicts single images.",
    ),
    Row(
        32,
        "images of 16 and 32 bits",
        (
            "data/test_photo_files.py::test_a_deep_gray_picture_keeps_its_upper_bits",
            "data/test_photo_files.py::test_values_of_unknown_range_are_refused",
        ),
    ),
    Row(33, "images turned by EXIF", ("data/test_photo_files.py::test_a_turned_picture_stands_upright",)),
    Row(
        34,
        "decompression bombs",
        (
            "data/test_photo_files.py::test_a_bomb_is_refused_unopened",
            "faults/test_machine.py::test_a_decompression_bomb_is_refused_without_decoding",
        ),
        "The file is left out, counted and named; the set goes on. The limit is a constant, Pillow's own.",
    ),
    Row(
        35,
        "images of odd sizes and files that are none",
        (
            "data/test_photo_files.py::test_what_is_no_picture_is_said_to_be_none",
            "data/test_photo_files.py::test_a_small_picture_is_enlarged_and_a_tiny_one_refused",
            "data/test_photo_files.py::test_a_strip_is_trimmed_to_its_middle",
            "data/test_photo_files.py::test_only_the_first_frame_counts",
            "data/test_photos.py::test_bad_files_are_left_out_counted_and_named",
            "nets/test_space.py::test_any_size_goes_through",
            "nets/test_space.py::test_an_image_below_32_pixels_is_refused",
            "nets/test_models.py::test_any_size_goes_through",
        ),
    ),
    Row(
        36,
        "truncated and changed images",
        (
            "data/test_photo_files.py::test_a_cut_off_file_is_refused_at_any_length",
            "data/test_photo_files.py::test_a_file_with_changed_bytes_raises_nothing_else",
            "data/test_photos.py::test_the_digest_of_the_source_sees_a_changed_picture",
            "faults/test_bit_flips.py::test_photos",
        ),
        "A changed bit in a user's JPEG cannot be noticed when it is first read; afterwards the table's seal protects it.",
    ),
    Row(
        37,
        "unknown and misspelt keys in params.yaml",
        (
            "schema/test_params.py::test_a_misspelt_key_is_answered_with_the_nearest",
            "schema/test_params.py::test_an_unknown_key_anywhere_is_refused",
            "pipeline/test_bad_input.py::test_every_door_refuses_bad_parameters",
        ),
    ),
    Row(
        38,
        "values of a wrong type or range in params.yaml",
        (
            "schema/test_params.py::test_a_value_of_another_type_is_refused_by_its_key",
            "schema/test_params.py::test_a_count_beyond_reason_is_refused",
            "schema/test_params.py::test_zero_is_refused_where_it_makes_no_sense",
            "schema/test_params.py::test_numbers_are_those_of_yaml_1_2",
        ),
    ),
    Row(
        39,
        "traps of YAML",
        (
            "schema/test_params.py::test_a_repeated_key_is_refused_by_its_line",
            "schema/test_params.py::test_the_booleans_of_yaml_1_1_are_text",
            "schema/test_params.py::test_a_leading_zero_is_no_octal",
            "schema/test_params.py::test_a_file_that_is_no_mapping_is_refused",
            "schema/test_params.py::test_a_byte_order_mark_and_windows_line_ends_change_nothing",
        ),
    ),
    Row(
        40,
        "a target latency out of reach",
        (
            "search_supernet/test_stage.py::test_an_unreachable_target_is_refused_before_any_training",
            "search_supernet/test_stage.py::test_the_reachable_range_is_that_of_the_bounded_net",
            "derive_genotype/test_choose.py::test_an_unreachable_target_is_refused_with_the_range",
        ),
        "A target above the slowest net is refused as well: it would constrain nothing.",
    ),
    Row(
        41,
        "odd paths",
        (
            "faults/test_machine.py::test_another_language_zone_umask_home_and_path_change_no_bit",
            "pipeline/test_graph.py::test_the_graph_makes_every_declared_output",
            "harness/test_process.py::test_one_output_has_one_lock_however_its_path_is_spelled",
        ),
    ),
    Row(
        42,
        "language, time zone, umask, home",
        ("faults/test_machine.py::test_another_language_zone_umask_home_and_path_change_no_bit",),
        "Of the stages generate_data and retrain; the others read the environment no more than they do.",
    ),
    Row(
        43,
        "bad data sets",
        (
            "data/test_photos.py::test_bad_files_are_left_out_counted_and_named",
            "data/test_photos.py::test_a_class_without_a_usable_picture_stops_before_writing",
            "data/test_photos.py::test_rows_that_contradict_the_metadata_are_refused",
            "data/test_photo_sources.py::test_a_wrong_table_is_refused",
            "data/test_photo_sources.py::test_a_wrong_line_of_a_list_is_named",
            "data/test_scenes.py::test_a_label_beyond_nine_is_refused",
            "data/test_scenes.py::test_a_count_that_does_not_match_is_corrupt",
            "data/test_sources.py::test_a_missing_mnist_file_is_named",
        ),
        "A picture that stands twice in the user's folders is taken twice; the splits never share a file.",
    ),
    Row(
        44,
        "Prefect: killed flow, lost server, retries",
        (
            "flows/test_stopping.py::test_a_killed_flow_takes_dvc_and_the_stage_along",
            "flows/test_stopping.py::test_a_terminated_flow_goes_on_when_started_again",
            "flows/test_prefect.py::test_an_absent_server_is_named",
            "flows/test_prefect.py::test_a_lost_server_holds_nothing_up",
            "flows/test_prefect.py::test_a_killed_flow_is_told_of_by_the_next",
            "flows/test_prefect.py::test_a_terminated_flow_is_reported_as_crashed",
            "flows/test_engine.py::test_a_crash_is_tried_again_once",
            "flows/test_engine.py::test_an_input_that_changes_while_a_stage_runs_is_not_its_cause",
        ),
    ),
    Row(
        45,
        "no memory",
        (
            "faults/test_machine.py::test_too_little_memory_is_said_and_keeps_the_checkpoints",
            "harness/test_process.py::test_no_memory_left_in_torch_is_no_bug",
            "harness/test_process.py::test_each_class_of_error_has_its_exit_code",
        ),
        "CUDA's own lack of memory is known by its words alone: no test fills a GPU.",
    ),
    Row(
        46,
        "a dead worker",
        (
            "profile_latency/test_process_rig.py::test_a_killed_process_is_told_with_its_last_words",
            "data/test_photo_loader.py::test_a_picture_that_is_not_what_its_row_says_is_named",
            "data/test_photo_loader.py::test_an_epoch_may_be_left_in_the_middle",
            "harness/test_asking.py::test_a_process_that_gives_no_answer_is_named",
            "faults/test_kills.py::test_whatever_is_killed_the_rest_ends_and_the_next_run_goes_on",
        ),
        "Workers of training are threads, which end with their process; those that time are processes (exit 3, not 1).",
    ),
    Row(
        47,
        "deterministic algorithms",
        (
            "faults/test_machine.py::test_every_op_of_the_space_runs_deterministically",
            "faults/test_machine.py::test_the_supernet_runs_deterministically",
            "faults/test_machine.py::test_the_models_on_scenes_run_deterministically",
        ),
        "On a GPU where there is one.",
    ),
    Row(
        48,
        "files of another version",
        (
            "training/test_checkpoints.py::test_a_checkpoint_of_another_version_is_refused",
            "latency/test_files.py::test_a_profile_of_another_version_is_refused",
            "latency/test_card.py::test_records_of_before_these_fields_still_parse",
            "schema/test_parquet.py::test_a_table_of_before_there_were_seals_is_read",
            "schema/test_parquet.py::test_metadata_of_another_version_is_corrupt",
        ),
    ),
    Row(
        49,
        "readers while a file is replaced",
        ("harness/test_files.py::test_readers_see_the_old_file_or_the_new",),
    ),
    Row(
        50,
        "soak",
        ("benchmarks/soak.py", "faults/test_soak.py::test_kills_at_random_end_as_if_nothing_had_been"),
        "Twenty kills of the real pipeline at the smoke preset, not two hundred: a part of `make bench`.",
    ),
)
