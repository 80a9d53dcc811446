"""A user's detection data: SPEC text in, validated records out (COCO, VOC)."""
