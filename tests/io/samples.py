"""Small files as text, used by several tests."""

PDB = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000       10.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000       20.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
ATOM      1  N   ALA A   1       1.000   2.000   3.000  1.00 10.00           N
ATOM      2  CA  ALA A   1       2.000   2.500   3.500  0.50 20.00           C
ATOM      3  H   ALA A   1       1.500   1.500   3.000  1.00 30.00           H
ATOM      4  D   ALA A   1       1.500   1.500   4.000  1.00 30.00           D
HETATM    5  O   HOH A   2       5.000   5.000   5.000  1.00 40.00           O
END
"""

RELION_30 = """
data_images

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnCoordinateX #3
_rlnCoordinateY #4
_rlnDefocusU #5
_rlnVoltage #6
_rlnSphericalAberration #7
_rlnAmplitudeContrast #8
_rlnMagnification #9
_rlnDetectorPixelSize #10
_rlnOriginX #11
_rlnOriginY #12
1@a.mrcs 1 100 200 15301.1 300 2.7 0.07 38168 5 -2 0.5
2@a.mrcs 2 300 400 15303.0 300 2.7 0.07 50000 5 3 1
"""

RELION_31 = """
# version 30001

data_optics

loop_ 
_rlnOpticsGroup #1 
_rlnOpticsGroupName #2 
_rlnVoltage #3 
           1 opticsGroup1   300.000000 
 

# version 30001

data_particles

loop_ 
_rlnImageName #1 
_rlnMicrographName #2 
_rlnDefocusU #3 
_rlnClassNumber #4 
000001@a.mrcs 0001 15301.100000            1 
000002@a.mrcs 0002 1.530300e+04            2 
 
"""
