"""The summaries of TensorBoard's hparams: what a run was configured with, and how it ended.

tensorboardX makes all of them at once, as of a run that is over and succeeded, in a folder of its own. These are for a
run that is watched, and that may fail. Their fields are those of TensorBoard's plugins/hparams/plugin_data.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams

from flsim.fleet import Scalar


def session_start(config: Mapping[str, Scalar], seconds: float) -> Summary:
    """Of a run that begins, at a Unix time."""
    _, summary, _ = hparams(dict(config), {})
    data = _data(summary)
    data.session_start_info.start_time_secs = seconds
    return _with(summary, data)


def session_end(succeeded: bool, seconds: float) -> Summary:
    """Of a run that is over, at a Unix time."""
    _, _, summary = hparams({}, {})
    data = _data(summary)
    data.session_end_info.status = Status.Value("STATUS_SUCCESS" if succeeded else "STATUS_FAILURE")
    data.session_end_info.end_time_secs = seconds
    return _with(summary, data)


def _data(summary: Summary) -> HParamsPluginData:
    return HParamsPluginData.FromString(summary.value[0].metadata.plugin_data.content)


def _with(summary: Summary, data: HParamsPluginData) -> Summary:
    summary.value[0].metadata.plugin_data.content = data.SerializeToString()
    return summary
