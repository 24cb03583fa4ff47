/** Reading and writing safetensors: `import { openCheckpoint } from 'seqmix/checkpoint'`. */
export { openCheckpoint, Checkpoint, type StoredTensor } from './reader.js'
export { saveSafetensors } from './writer.js'
export { decodeSafetensors, encodeSafetensors } from './memory.js'
export { bfloat16ToFloat32, float16ToFloat32 } from './convert.js'
export type { TensorInfo } from './format.js'
