// dimmer/tree: the /sys and /proc of a Machine.

export { type KernelTreeOptions, kernelTree } from './kernel-tree.ts';
