/** Layers built from a config and a state dict: `import { Mamba } from 'seqmix/layers'`. */
export { Mamba, type MambaConfig, type MambaSizes } from './mamba.js'
export { MambaCache } from './mamba-cache.js'
export { RMSNorm, type RMSNormConfig } from './rms-norm.js'
export type { LayerCache } from './cache.js'
export type { StateDict } from './state.js'
