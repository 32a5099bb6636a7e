// dimmer/tree: the /sys and /proc of a Machine, and a shell on it.

export { nextFreeStart } from './free-start.ts';
export { type KernelTreeOptions, kernelTree } from './kernel-tree.ts';
export { type Answer, Shell } from './shell.ts';
export { type TreeFile, treeSnapshot } from './tree-snapshot.ts';
