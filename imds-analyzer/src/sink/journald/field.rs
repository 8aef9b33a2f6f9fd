//! Our own fields in a journal entry.

use crate::vocabulary::vocabulary;

vocabulary! {
    /// A field. The order is the order of the documents.
    pub enum Field {
        Action = "IMDS_ACTION",
        Version = "IMDS_VERSION",
        Verdict = "IMDS_VERDICT",
        Reason = "IMDS_REASON",
        PathClass = "IMDS_PATH_CLASS",
        Path = "IMDS_PATH",
        Method = "IMDS_METHOD",
        UserAgent = "IMDS_USER_AGENT",
        Endpoint = "IMDS_ENDPOINT",
        Local = "IMDS_LOCAL",
        Relay = "IMDS_RELAY",
        Answer = "IMDS_ANSWER",
        Status = "IMDS_STATUS",
        Cause = "IMDS_CAUSE",
        Client = "IMDS_CLIENT",
        ClientVersion = "IMDS_CLIENT_VERSION",
        Remedy = "IMDS_REMEDY",
        Attempt = "IMDS_ATTEMPT",
        Caller = "IMDS_CALLER",
        Pid = "IMDS_PID",
        Comm = "IMDS_COMM",
        Exe = "IMDS_EXE",
        Cmdline = "IMDS_CMDLINE",
        Uid = "IMDS_UID",
        User = "IMDS_USER",
        Unit = "IMDS_UNIT",
        UserUnit = "IMDS_USER_UNIT",
        Container = "IMDS_CONTAINER",
        Orchestrator = "IMDS_ORCHESTRATOR",
        CallsV1 = "IMDS_CALLS_V1",
        CallsV2 = "IMDS_CALLS_V2",
        CallsOther = "IMDS_CALLS_OTHER",
        CallsUnknown = "IMDS_CALLS_UNKNOWN",
        Record = "IMDS_RECORD",
    }
}
