"""The schemas of nsys's sqlite exports, of 2022 (3.0.0) and of 2024 (3.16.1)."""

from __future__ import annotations

OLD, NEW = "3.0.0", "3.16.1"
PRODUCTS = {OLD: "2022.4.2.1", NEW: "2024.6.2.225"}
META = {OLD: "EXPORT_META_DATA", NEW: "META_DATA_EXPORT"}

# Columns are integers that may be NULL; a mark says otherwise.
NOT_NULL, KEY, TEXT, REAL, ONLY_NEW = "!", "#", "$", "~", "+"
TABLES = {
    "StringIds": "id# value!$",
    "EXPORT_META_DATA": "name!$ value$",
    "META_DATA_EXPORT": "name!$ value$",
    "META_DATA_CAPTURE": "name!$ value$",
    "ENUM_NSYS_EVENT_TYPE": "id# name$ label$",
    "ENUM_CUDA_MEMCPY_OPER": "id# name$ label$",
    "ANALYSIS_DETAILS": "globalVid! duration! startTime! stopTime!",
    "PROCESSES": "globalPid pid name$",
    "ThreadNames": "nameId! priority globalTid",
    "ProcessStreams": "globalPid! filenameId! contentId!",
    "TARGET_INFO_SYSTEM_ENV": "globalVid! devStateName!$ name!$ nameEnum! value!$",
    "TARGET_INFO_SESSION_START_TIME": "utcEpochNs utcTime$ localTime$",
    "TARGET_INFO_GPU": "vmId! id! name$ busLocation$ uuid$ chipName$ totalMemory smCount",
    "NVTX_EVENTS": (
        "start! end eventType! rangeId category color text$ globalTid endGlobalTid textId domainId"
        " uint64Value int64Value doubleValue~ uint32Value int32Value floatValue~ jsonTextId"
        " jsonText$ binaryData$+"
    ),
    "CUPTI_ACTIVITY_KIND_RUNTIME": (
        "start! end! eventClass! globalTid correlationId nameId! returnValue! callchainId"
    ),
    "CUPTI_ACTIVITY_KIND_KERNEL": (
        "start! end! deviceId! contextId! greenContextId+ streamId! correlationId globalPid"
        " demangledName! shortName! mangledName launchType cacheConfig registersPerThread! gridX!"
        " gridY! gridZ! blockX! blockY! blockZ! staticSharedMemory! dynamicSharedMemory!"
        " localMemoryPerThread! localMemoryTotal! gridId! sharedMemoryExecuted graphNodeId"
        " sharedMemoryLimitConfig"
    ),
    "CUPTI_ACTIVITY_KIND_MEMCPY": (
        "start! end! deviceId! contextId! greenContextId+ streamId! correlationId globalPid bytes!"
        " copyKind! deprecatedSrcId srcKind dstKind srcDeviceId srcContextId dstDeviceId"
        " dstContextId migrationCause graphNodeId virtualAddress"
    ),
    "CUPTI_ACTIVITY_KIND_MEMSET": (
        "start! end! deviceId! contextId! greenContextId+ streamId! correlationId globalPid value!"
        " bytes! graphNodeId memKind"
    ),
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": (
        "start! end! deviceId! contextId! greenContextId+ streamId! correlationId globalPid"
        " graphId! graphExecId!"
    ),
}

CATEGORY, MARK, PUSH_POP, START_END, DOMAIN = 33, 34, 59, 60, 75
EVENTS = {
    CATEGORY: "NvtxCategory",
    MARK: "NvtxMark",
    PUSH_POP: "NvtxPushPopRange",
    START_END: "NvtxStartEndRange",
    70: "NvtxtPushPopRange",
    71: "NvtxtStartEndRange",
    DOMAIN: "NvtxDomainCreate",
}
HTOD, DTOH, DTOD = 1, 2, 8
COPIES = (
    *("Unknown", "Host-to-Device", "Device-to-Host", "Host-to-Array", "Array-to-Host"),
    *("Array-to-Array", "Array-to-Device", "Device-to-Array", "Device-to-Device"),
    *("Host-to-Host", "Peer-to-Peer"),
)


def create_table(table: str, schema: str) -> str:
    """The SQL statement that makes a table."""
    columns = (_column(spec) for spec in TABLES[table].split() if schema == NEW or "+" not in spec)
    return f"CREATE TABLE {table} ({', '.join(columns)})"


def _column(spec: str) -> str:
    name = spec.rstrip("".join((NOT_NULL, KEY, TEXT, REAL, ONLY_NEW)))
    kind = "TEXT" if TEXT in spec else "REAL" if REAL in spec else "INTEGER"
    if KEY in spec:
        return f"{name} {kind} NOT NULL PRIMARY KEY"
    return f"{name} {kind} NOT NULL" if NOT_NULL in spec else f"{name} {kind}"
