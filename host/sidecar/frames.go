package main

import (
	"encoding/binary"
	"io"
)

const (
	maxFrame    = 65_507
	noticeFrame = 0xffff
)

// readFrame reads one frame into buffer, which must hold 65,535 bytes. A notice gives no data and its code.
func readFrame(r io.Reader, buffer []byte) (data []byte, notice byte, err error) {
	if _, err := io.ReadFull(r, buffer[:2]); err != nil {
		return nil, 0, err
	}
	length := int(binary.BigEndian.Uint16(buffer))
	if length == noticeFrame {
		if _, err := io.ReadFull(r, buffer[:1]); err != nil {
			return nil, 0, unexpected(err)
		}
		return nil, buffer[0], nil
	}
	if _, err := io.ReadFull(r, buffer[:length]); err != nil {
		return nil, 0, unexpected(err)
	}
	return buffer[:length], 0, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendFrame adds one frame to b; data has at most 65,534 bytes.
func appendFrame(b, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

func appendNotice(b []byte, code byte) []byte {
	return append(b, noticeFrame>>8, noticeFrame&0xff, code)
}
