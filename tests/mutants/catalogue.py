"""The bugs: where each is planted, and which tests must go red."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug, as an edit of one file."""

    bug: str
    file: str
    find: str
    """What is there; exactly once."""
    put: str
    red: tuple[str, ...]
    """The tests that must fail with it, each of them."""


HEART, LINK, WORKER = "core/flsim/heart.py", "core/flsim/linkstate.py", "core/flsim/worker.py"
GRID, RESOURCES, PLACES = "core/flsim/grid.py", "core/flsim/resources.py", "core/flsim/places.py"
ENVELOPE, SIZING, LOKY = "core/flsim/envelope.py", "core/flsim/sizing.py", "backends/loky/flsim_loky"

SIMULATION = "tests/test_simulation.py::test_hundreds_of_seeded_runs_hold_the_invariants"

WALL = tuple(
    f"tests/test_faults.py::test_a_clock_on_the_wall_that_jumps_by_a_day_expires_nothing[{backend}]"
    for backend in ("serial", "loky")
)


def of_heart(*names: str) -> tuple[str, ...]:
    """Tests of the heart alone."""
    return tuple(f"tests/test_heart.py::test_{name}" for name in names)


def clause(name: str, backend: str) -> str:
    """A check of the contract, with its clause's number."""
    return f"tests/test_contract.py::TestContract::test_clause[{backend}-{name}]"


MUTANTS = (
    # ---- deaths and blame
    Mutant(
        "A dead worker is offered again",
        f"{LOKY}/backend.py",
        "            future.set_result(frames)\n            return\n        self._drop(slot)\n",
        "            future.set_result(frames)\n            return\n        self._idle.append(slot)\n",
        (clause("2-a_dead_worker_is_replaced_before_it_is_offered_work", "loky"),),
    ),
    Mutant(
        "Bystanders are charged with a death",
        HEART,
        "        if len(lease.entries) == 1 and live and (verdict",
        "        if live and (verdict",
        (*of_heart("a_death_in_a_lease_of_several_charges_nobody_and_they_are_leased_alone"), SIMULATION),
    ),
    Mutant(
        "A suspect is leased with others",
        HEART,
        "size = 1 if head.alone else max(1, limit(head.kind, head.type, queue.count))",
        "size = max(1, limit(head.kind, head.type, queue.count))",
        (*of_heart("a_death_in_a_lease_of_several_charges_nobody_and_they_are_leased_alone"), SIMULATION),
    ),
    Mutant(
        "A worker that the driver aborts charges its message with a death",
        "core/flsim/errors.py",
        "return self in (Cause.EXITED, Cause.SIGNAL, Cause.MEMORY, Cause.UNKNOWN)",
        "return self in (Cause.EXITED, Cause.SIGNAL, Cause.MEMORY, Cause.UNKNOWN, Cause.ABORTED)",
        (
            *of_heart("a_message_whose_worker_was_aborted_twice_with_it_alone_ends_by_its_time_limit"),
            SIMULATION,
        ),
    ),
    Mutant(
        "A worker that has outgrown its limit is kept",
        f"{LOKY}/backend.py",
        "            if frames.outgrown:\n",
        "            if False:\n",
        (clause("9-a_worker_that_grows_is_replaced_between_messages", "loky"),),
    ),
    Mutant(
        "The time limit of a message goes on after its end",
        WORKER,
        "        if kind.time_limit is not None:\n            box.go_on()\n",
        "",
        ("tests/test_limits.py::test_a_worker_that_rests_is_not_ended_by_the_time_limit_of_its_last_message",),
    ),
    # ---- replies and states
    Mutant(
        "A late twin is accepted",
        HEART,
        "            self.late += len(lease.entries)\n            return []\n        self._end_lease(lease)\n"
        "        self._stillborn",
        "            pass\n        else:\n            self._end_lease(lease)\n        self._stillborn",
        (*of_heart("the_reply_of_a_lease_that_was_lost_is_dropped"), SIMULATION),
    ),
    Mutant(
        "A reply is accepted without its state",
        LINK,
        "                    if state is not None and error is outcome.error:",
        "                    if state is not None and error is outcome.error and len(accepted) == 1:",
        (SIMULATION,),
    ),
    Mutant(
        "A state is accepted without its reply",
        LINK,
        "                if entry in accepted:\n"
        "                    if state is not None and error is outcome.error:  # and not one that the driver found\n"
        "                        self._keep(entry.node, state)\n",
        "                if state is not None and error is outcome.error:\n"
        "                    self._keep(entry.node, state)\n"
        "                if entry in accepted:\n",
        ("tests/test_run.py::test_a_late_reply_of_a_message_that_was_at_work_changes_no_state", SIMULATION),
    ),
    Mutant(
        "A reply that cannot be decoded changes the state of its node",
        LINK,
        "                    if state is not None and error is outcome.error:",
        "                    if state is not None:",
        ("tests/test_run.py::test_a_reply_that_cannot_be_decoded_leaves_the_state_as_it_was",),
    ),
    Mutant(
        "A state update is lost",
        WORKER,
        "    if before[0] != pickled or len(before[1]) != len(raws):\n",
        "    if len(before[0]) != len(pickled) or len(before[1]) != len(raws):\n",
        ("tests/test_run.py::test_thirty_messages_to_one_node_are_executed_one_after_another[serial]", SIMULATION),
    ),
    Mutant(
        "An old state comes back from the disk",
        "core/flsim/states.py",
        "INSERT OR REPLACE INTO",
        "INSERT OR IGNORE INTO",
        ("tests/test_states.py::test_the_state_of_each_node_is_the_one_that_was_put_last",),
    ),
    Mutant(
        "Replies come in the order of their arrival, so sums do",
        GRID,
        "            return [inbox.replies.pop(i) for i in sent]",
        "            return [inbox.replies.pop(i) for i in list(inbox.replies)]",
        (SIMULATION,),
    ),
    Mutant(
        "Sums are kept in the arrays' own precision",
        "core/flsim/aggregate.py",
        "np.zeros(a.shape, np.result_type(a.dtype, np.float64))",
        "np.zeros(a.shape, np.result_type(a.dtype, np.float32))",
        ("tests/test_aggregate.py::test_sums_are_kept_in_float64",),
    ),
    Mutant(
        "A worker loop that raises is not heard",
        "core/flsim/engine.py",
        "        except BaseException as e:\n            self._fail(e)\n",
        "        except BackendBroken as e:\n            self._fail(e)\n",
        tuple(
            f"tests/test_run.py::test_what_the_engine_raises_by_itself_ends_the_run_with_its_cause[{where}]"
            for where in ("linkstate.LinkState.returned", "places.Places.update")
        ),
    ),
    # ---- messages
    Mutant(
        "Ids come from uuid4",
        HEART,
        "        id_ = self._next_id\n",
        "        id_ = __import__('uuid').uuid4().int >> 70\n",
        ("tests/test_run.py::test_an_id_is_empty_until_the_push_and_a_counter_afterwards",),
    ),
    Mutant(
        "The messages of a node overtake each other",
        HEART,
        "            entry = waiting.popleft()\n            if entry.status",
        "            entry = waiting.pop()\n            if entry.status",
        (*of_heart("a_node_has_one_message_in_flight_and_the_rest_wait_in_order"), SIMULATION),
    ),
    Mutant(
        "A node has two messages at work",
        HEART,
        "            self._end(entry)\n            ended.append(entry)\n            if was is Status.READY:\n",
        "            self._end(entry)\n            ended.append(entry)\n            if was is Status.LEASED:\n"
        "                self._next_of(now, entry.node)\n            if was is Status.READY:\n",
        (*of_heart("a_message_that_waits_behind_a_cancelled_one_still_waits_for_the_worker"), SIMULATION),
    ),
    Mutant(
        "A cancelled message is leased",
        HEART,
        "            if entry.status is Status.READY:\n                entry.status = Status.LEASED\n",
        "            if entry.status is not Status.LEASED:\n                entry.status = Status.LEASED\n",
        (*of_heart("a_message_that_is_cancelled_between_others_is_not_leased"), SIMULATION),
    ),
    Mutant(
        "The ttl of a message is never looked at",
        LINK,
        "            self._end(self.heart.expire(now), ErrorCode.MESSAGE_UNAVAILABLE, "
        '"its ttl passed before it was answered")\n',
        "",
        ("tests/test_run.py::test_a_message_whose_ttl_passes_is_ended_by_the_linkstate", SIMULATION),
    ),
    Mutant(
        "The ttl is taken from the wall clock",
        LINK,
        "            now = self._moved = self.clock()\n            push, kind_of",
        "            now = self._moved = time.time()\n            push, kind_of",
        ("tests/test_run.py::test_a_message_whose_ttl_passes_is_ended_by_the_linkstate", SIMULATION),
    ),
    Mutant(
        "The time of a run is taken from the wall clock",
        LINK,
        "clock: Callable[[], float] = time.monotonic,",
        "clock: Callable[[], float] = time.time,",
        WALL,
    ),
    Mutant(
        "The timeout of a stream is taken from the wall clock",
        GRID,
        "import time\n",
        "import time as clocks\nfrom types import SimpleNamespace\n\n"
        "time = SimpleNamespace(time=clocks.time, monotonic=clocks.time)\n",
        WALL,
    ),
    Mutant(
        "A reader of a stream lets no more in",
        GRID,
        "            self._link.taken(inbox, id_)\n",
        "",
        (SIMULATION,),
    ),
    Mutant(
        "A stream runs ahead of its reader without end",
        LINK,
        "        while window.held and len(window.open) < most:\n",
        "        while window.held:\n",
        (
            "tests/test_stream.py::test_workers_run_ahead_only_as_far_as_there_is_room_for_their_replies",
            SIMULATION,
        ),
    ),
    # ---- room
    Mutant(
        "Capacity is not given back",
        RESOURCES,
        "            self._used[name] -= amount\n",
        "            self._used[name] -= amount - 1\n",
        (*of_heart("a_mixed_fleet_of_one_and_two_cpus_on_two_cpus_never_uses_three"), SIMULATION),
    ),
    Mutant(
        "More is given out than there is",
        RESOURCES,
        "            if self._used.get(name, 0) + amount > have.get(name, 0):\n",
        "            if amount > have.get(name, 0):\n",
        (*of_heart("a_mixed_fleet_of_one_and_two_cpus_on_two_cpus_never_uses_three"), SIMULATION),
    ),
    Mutant(
        "A gpu is given out that has gone",
        RESOURCES,
        "        there = self._devices[: math.ceil(self.place.resources.gpus)]  # it may have had more\n",
        "        there = self._devices\n",
        of_heart("a_device_that_a_place_has_no_more_is_not_given_out"),
    ),
    Mutant(
        "Small needs starve a large one",
        HEART,
        "            if self._reserved is None and now - head.since >= RESERVE_AFTER:\n",
        "            if self._reserved is None and now - head.since >= 1000 * RESERVE_AFTER:\n",
        (*of_heart("the_oldest_message_that_does_not_fit_reserves_its_room_after_a_second"), SIMULATION),
    ),
    Mutant(
        "Room is reserved in a place that has gone",
        HEART,
        "            if name not in self.rooms or not slots(self.rooms[name].place, self.needs[kind]):\n",
        "            if name not in self.rooms:\n",
        of_heart(
            "a_reservation_moves_on_when_its_place_cannot_serve_it_any_more[gone]",
            "a_reservation_moves_on_when_its_place_cannot_serve_it_any_more[smaller]",
        ),
    ),
    Mutant(
        "A lease takes more than its share of what is ready",
        SIZING,
        "        size = min(by_clock, share)\n",
        "        size = by_clock\n",
        ("tests/test_sizing.py::test_a_lease_takes_half_of_its_share_of_what_is_ready",),
    ),
    Mutant(
        "What is shared is never let go of",
        LINK,
        "            if not carried.users:\n",
        "            if carried.users < 0:\n",
        (
            "tests/test_payload.py::test_what_is_shared_stays_until_its_messages_have_ended_and_its_leases_are_back",
            SIMULATION,
        ),
    ),
    Mutant(
        "What is shared is let go of while leases need it",
        LINK,
        "            for carried in held:\n                carried.users += 1\n",
        "",
        (
            "tests/test_payload.py::test_what_is_shared_stays_until_its_messages_have_ended_and_its_leases_are_back",
            SIMULATION,
        ),
    ),
    Mutant(
        "A shared segment leaks",
        "core/flsim/segments.py",
        "        if self._forget(self):  # else it went with the backend\n            self._segment.close()\n",
        "        self._forget(self)\n",
        ("backends/loky/tests/test_memory.py::test_a_segment_goes_when_the_last_message_that_carries_it_has_ended",),
    ),
    Mutant(
        "A place with other versions is used",
        PLACES,
        'self._problems.get(p.name, "not inspected") == ""',
        "p.name in self._problems",
        ("tests/test_places.py::test_a_worker_that_joins_with_other_versions_is_announced_and_not_used", SIMULATION),
    ),
    # ---- in the worker
    Mutant(
        "The envelope catches `Exception` alone",
        WORKER,
        "    except BaseException as e:\n        executed = clock()\n",
        "    except Exception as e:\n        executed = clock()\n",
        (
            "tests/test_faults.py::test_whatever_a_clientapp_raises_is_the_error_of_its_message_and_of_no_other"
            "[GeneratorExit-serial]",
        ),
    ),
    Mutant(
        "A message whose decoding exits ends its lease",
        WORKER,
        "    except BaseException as e:\n        return failed(ErrorCode.MESSAGE_UNDECODABLE",
        "    except Exception as e:\n        return failed(ErrorCode.MESSAGE_UNDECODABLE",
        (clause("13-what_goes_wrong_in_a_clientapp_is_the_error_of_its_message_alone", "serial"),),
    ),
    Mutant(
        "A reply that exits when it is looked at ends its lease",
        WORKER,
        "    except BaseException as e:  # the app may have put anything",
        "    except Exception as e:  # the app may have put anything",
        (clause("13-what_goes_wrong_in_a_clientapp_is_the_error_of_its_message_alone", "serial"),),
    ),
    Mutant(
        "A lease that exits when it is read ends its worker",
        WORKER,
        "    except BaseException as e:\n        return reply(NOT_READ",
        "    except Exception as e:\n        return reply(NOT_READ",
        ("tests/test_envelope.py::test_a_lease_that_exits_when_it_is_read_comes_back_as_not_read",),
    ),
    Mutant(
        "A reply whose decoding exits ends the run",
        LINK,
        "    except BaseException as e:  # unpickling runs the app's code",
        "    except Exception as e:  # unpickling runs the app's code",
        ("tests/test_payload.py::test_a_reply_whose_decoding_exits_is_an_error",),
    ),
    Mutant(
        "Content that exits when it is encoded leaves a push so",
        LINK,
        "            except (Exception, SystemExit, GeneratorExit) as e:",
        "            except Exception as e:",
        (clause("13-what_goes_wrong_in_a_clientapp_is_the_error_of_its_message_alone", "serial"),),
    ),
    Mutant(
        "The seed of a message is the node's, without its count",
        WORKER,
        "state, job.run_config, (job.seed, (node, k)))\n",
        "state, job.run_config, (job.seed, (node, 0)))\n",
        (clause("10-seeds_are_of_the_node_and_its_count", "serial"), SIMULATION),
    ),
    Mutant(
        "The global generators are not put back",
        ENVELOPE,
        "        if restore:\n",
        "        if restore and threads > 1:\n",
        (clause("10-nothing_draws_from_the_generators_beside_a_call", "serial"),),
    ),
    Mutant(
        "What a ClientApp prints is not cut",
        ENVELOPE,
        "PRINTED_LIMIT = 64 * 1024\n",
        "PRINTED_LIMIT = 64 * 1024**2\n",
        (clause("9-a_worker_may_print_a_megabyte", "serial"),),
    ),
    Mutant(
        "What another thread prints passes by",
        ENVELOPE,
        "        return self._of_all or self._of_thread.get(threading.get_ident())\n",
        "        return self._of_thread.get(threading.get_ident())\n",
        (
            "tests/test_envelope.py::"
            "test_what_another_thread_prints_is_the_messages_where_the_process_is_its_lease[True]",
            clause("9-what_a_worker_writes_reaches_no_terminal_but_by_the_engine", "loky"),
        ),
    ),
    Mutant(
        "What a worker writes past Python goes where the driver's output goes",
        f"{LOKY}/output.py",
        "        os.dup2(writing.fileno(), fd)\n",
        "",
        (clause("9-what_a_worker_writes_reaches_no_terminal_but_by_the_engine", "loky"),),
    ),
    Mutant(
        "The text of an error moves the terminal",
        ENVELOPE,
        "    if cut.isprintable():\n        return cut\n",
        "    return cut\n",
        ("tests/test_envelope.py::test_the_text_of_an_error_cannot_move_the_terminal[describe]",),
    ),
    Mutant(
        "What is done to an array after its push is seen",
        "core/flsim/payload.py",
        "                        placed[number] = copied(memory)\n",
        "                        placed[number] = memory\n",
        ("tests/test_payload.py::test_what_is_done_to_an_array_afterwards_is_not_seen",),
    ),
    Mutant(
        "An app may use up all the files of its process",
        "core/flsim/open_files.py",
        "KEPT = 16\n",
        "KEPT = 0\n",
        ("tests/test_limits.py::test_a_run_on_serial_that_has_used_up_its_files_ends_as_others_do",),
    ),
    Mutant(
        "A worker that has used up its files is kept",
        "core/flsim/open_files.py",
        "number < of_the_app - min(FEW, of_the_app // 8)",
        "number",
        (clause("13-a_clientapp_that_leaves_no_file_to_open_costs_nobody_else", "loky"),),
    ),
    # ---- what the user is told
    Mutant(
        "An unknown option is taken",
        "core/flsim/options.py",
        '            raise UnknownName(f"option of {owner}", key, fields)\n',
        "            continue\n",
        ("tests/test_options.py::test_an_unknown_option_is_named_with_the_nearest_and_the_known",),
    ),
    Mutant(
        "A ServerApp that raises ends the command with 0",
        "core/flsim/cli/run.py",
        '        print(f"error: the ServerApp raised\\n{traceback_of(e)}", end="", file=sys.stderr)\n'
        "        raise typer.Exit(1) from None\n",
        '        print(f"error: the ServerApp raised\\n{traceback_of(e)}", end="", file=sys.stderr)\n'
        "        raise typer.Exit(0) from None\n",
        ("tests/test_faults.py::test_a_serverapp_that_raises_ends_the_run_with_its_traceback_and_exit_code_1[serial]",),
    ),
)
