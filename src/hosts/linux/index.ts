// dimmer/hosts/linux: the rim that touches this machine. Reads /proc and /sys; writes bundles and unpacked captures only.

export { type CaptureRefusal, readCapture } from './read-capture.ts';
export { fsTree, machineFiles } from './root.ts';
export { unpackCapture, type WriteRefusal, writeBundle } from './write.ts';
