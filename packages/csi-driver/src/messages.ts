// Messages of csi.proto as they come from the wire: camelCase, every field present, an absent message
// null or undefined, int64 a number, enums by name (a number when the name is not known here).

export type Texts = Record<string, string>;

export type AccessModeName =
  | 'UNKNOWN'
  | 'SINGLE_NODE_WRITER'
  | 'SINGLE_NODE_READER_ONLY'
  | 'MULTI_NODE_READER_ONLY'
  | 'MULTI_NODE_SINGLE_WRITER'
  | 'MULTI_NODE_MULTI_WRITER'
  | 'SINGLE_NODE_SINGLE_WRITER'
  | 'SINGLE_NODE_MULTI_WRITER';

export interface MountAccess {
  fsType: string;
  mountFlags: string[];
  volumeMountGroup: string;
}

export interface VolumeCapability {
  block?: object | null;
  mount?: MountAccess | null;
  accessMode?: { mode: AccessModeName | number } | null;
}

export interface CapacityRange {
  requiredBytes: number;
  limitBytes: number;
}

export interface ContentSource {
  snapshot?: { snapshotId: string } | null;
  volume?: { volumeId: string } | null;
}

export interface Topology {
  segments: Texts;
}

export interface TopologyRequirement {
  requisite: Topology[];
  preferred: Topology[];
}

export interface VolumeCondition {
  abnormal: boolean;
  message: string;
}

/** An answer: what is left out has its default on the wire. */
export interface CsiVolume {
  capacityBytes: number;
  volumeId: string;
  volumeContext: Texts;
  contentSource: ContentSource | null;
  accessibleTopology: Topology[];
}

export interface VolumeStatus {
  publishedNodeIds: string[];
  volumeCondition: VolumeCondition;
}

export interface VolumeEntry {
  volume: CsiVolume;
  status: VolumeStatus;
}

export interface Timestamp {
  seconds: number;
  nanos: number;
}

export interface CsiSnapshot {
  sizeBytes: number;
  snapshotId: string;
  sourceVolumeId: string;
  creationTime: Timestamp;
  readyToUse: boolean;
  groupSnapshotId: string;
}

export interface CsiGroupSnapshot {
  groupSnapshotId: string;
  snapshots: CsiSnapshot[];
  creationTime: Timestamp;
  readyToUse: boolean;
}

export interface CreateVolumeRequest {
  name: string;
  capacityRange: CapacityRange | null;
  volumeCapabilities: VolumeCapability[];
  parameters: Texts;
  volumeContentSource: ContentSource | null;
  accessibilityRequirements: TopologyRequirement | null;
  mutableParameters: Texts;
}

export interface VolumeRequest {
  volumeId: string;
}

export interface ControllerPublishRequest {
  volumeId: string;
  nodeId: string;
  volumeCapability: VolumeCapability | null;
  readonly: boolean;
}

export interface ControllerUnpublishRequest {
  volumeId: string;
  nodeId: string;
}

export interface ValidateRequest {
  volumeId: string;
  volumeContext: Texts;
  volumeCapabilities: VolumeCapability[];
  parameters: Texts;
  mutableParameters: Texts;
}

export interface PageRequest {
  maxEntries: number;
  startingToken: string;
}

export interface GetCapacityRequest {
  volumeCapabilities: VolumeCapability[];
  parameters: Texts;
  accessibleTopology: Topology | null;
}

export interface ControllerExpandRequest {
  volumeId: string;
  capacityRange: CapacityRange | null;
  volumeCapability: VolumeCapability | null;
}

export interface ModifyRequest {
  volumeId: string;
  mutableParameters: Texts;
}

export interface CreateSnapshotRequest {
  sourceVolumeId: string;
  name: string;
  parameters: Texts;
}

export interface SnapshotRequest {
  snapshotId: string;
}

export interface ListSnapshotsRequest extends PageRequest {
  sourceVolumeId: string;
  snapshotId: string;
}

export interface CreateGroupRequest {
  name: string;
  sourceVolumeIds: string[];
  parameters: Texts;
}

export interface GroupRequest {
  groupSnapshotId: string;
  snapshotIds: string[];
}

export interface AllocatedRequest {
  snapshotId: string;
  startingOffset: number;
  maxResults: number;
}

export interface DeltaRequest {
  baseSnapshotId: string;
  targetSnapshotId: string;
  startingOffset: number;
  maxResults: number;
}

export interface MetadataPart {
  blockMetadataType: 'VARIABLE_LENGTH';
  volumeCapacityBytes: number;
  blockMetadata: { byteOffset: number; sizeBytes: number }[];
}

export interface StageRequest {
  volumeId: string;
  stagingTargetPath: string;
  volumeCapability: VolumeCapability | null;
  volumeContext: Texts;
}

export interface UnstageRequest {
  volumeId: string;
  stagingTargetPath: string;
}

export interface NodePublishRequest extends StageRequest {
  targetPath: string;
  readonly: boolean;
}

export interface NodeUnpublishRequest {
  volumeId: string;
  targetPath: string;
}

export interface StatsRequest {
  volumeId: string;
  volumePath: string;
}

export interface VolumeUsage {
  available?: number;
  total: number;
  used?: number;
  unit: 'BYTES' | 'INODES';
}

export interface NodeExpandRequest {
  volumeId: string;
  volumePath: string;
  capacityRange: CapacityRange | null;
  volumeCapability: VolumeCapability | null;
}
